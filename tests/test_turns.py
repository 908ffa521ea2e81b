import threading
import time

import pytest
import torch

from classifier.labelling.models.turns import Turns, replicas


def started(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_replicas_are_of_the_same_weights_and_have_hooks_of_their_own():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    one, other = replicas(model)
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
    assert replicas(model) == [model]


def test_each_turn_has_a_replica_to_itself():
    turns = Turns(["a", "b"])
    with turns.turn(1, most=9) as one, turns.turn(1, most=9) as other:
        assert (one, other) == ("a", "b")
        third = []

        def take_turn():
            with turns.turn(1, most=9) as replica:
                third.append(replica)

        thread = started(take_turn)
        time.sleep(0.1)
        assert third == []
    thread.join()
    assert third in (["a"], ["b"])
    with turns.turn(1, most=9) as one:
        assert one in ("a", "b")


def test_what_needs_much_memory_waits_for_the_others_and_is_not_passed_by():
    turns, order = Turns(["a", "b", "c"]), []

    def take_turn(needed):
        with turns.turn(needed, most=10):
            order.append(needed)

    with turns.turn(4, most=10):
        large = started(lambda: take_turn(9))
        time.sleep(0.1)
        small = started(lambda: take_turn(2))  # which would fit
        time.sleep(0.1)
        assert order == []
    large.join()
    small.join()
    assert order == [9, 2]


def test_what_needs_more_than_there_is_runs_alone_all_the_same():
    turns = Turns(["a", "b"])
    with turns.turn(99, most=10) as replica:
        assert replica == "a"


def test_a_turn_that_fails_gives_its_replica_and_memory_back():
    turns, callers = Turns(["a"]), []

    def fail():
        with turns.caller(), turns.turn(10, most=10):
            callers.append(turns.callers)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="of memory"):
        fail()
    assert (callers, turns.callers) == ([1], 0)
    with turns.turn(10, most=10) as replica:
        assert replica == "a"
