"""The turns of threads at one model."""

import threading
import time

import pytest
import torch

from attention_patterns.labelling.sources.models.turns import Turns, make_replicas


def started(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_replicas_are_of_the_same_weights_and_have_hooks_of_their_own():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    one, other = make_replicas(model)
    assert one is model
    assert [values.data_ptr() for values in one.parameters()] == [values.data_ptr() for values in other.parameters()]
    assert one[1].running_mean.data_ptr() != other[1].running_mean.data_ptr()
    seen = []
    other[0].register_forward_hook(lambda *_: seen.append("other"))
    one.eval()(torch.zeros(1, 3))
    assert seen == []


def test_a_model_that_cannot_be_copied_has_no_replica():
    model = torch.nn.Linear(2, 2)
    model.lock = threading.Lock()
    assert make_replicas(model) == [model]


def test_each_turn_has_a_replica_to_itself():
    turns = Turns(["a", "b"])
    with turns.turn() as one, turns.turn() as other:
        assert (one, other) == ("a", "b")
        third = []

        def take_turn():
            with turns.turn() as replica:
                third.append(replica)

        thread = started(take_turn)
        time.sleep(0.1)
        assert third == []
    thread.join()
    assert third in (["a"], ["b"])
    with turns.turn() as one:
        assert one in ("a", "b")


def test_a_turn_that_fails_gives_its_replica_back():
    turns, callers = Turns(["a"]), []

    def fail():
        with turns.caller(), turns.turn():
            callers.append(turns.callers)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="of memory"):
        fail()
    assert (callers, turns.callers) == ([1], 0)
    with turns.turn() as replica:
        assert replica == "a"
