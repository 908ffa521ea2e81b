"""A server process that is short of memory, or given as much work as callers can make: it ends or answers."""

import resource
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import numpy as np
import pytest

from attention_patterns_service.limits import MIB, Limits
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.inference import open_inference_pb2 as infer_pb
from attention_patterns_service.server.open_inference.methods import NAME
from attention_patterns_service.server.open_inference.methods import SERVICE as INFERENCE
from tests.helpers.calls import message_of, method_of
from tests.helpers.drawn_maps import random_maps
from tests.helpers.servers import Holdings, process_of, run, serving

SMALL = message_of(random_maps(9, 9))
ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def outcome_of(method, message, timeout=60):
    try:
        method(message, timeout=timeout)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


@pytest.mark.parametrize("spare", [0, 20 * MIB])
def test_a_server_without_memory_ends_or_answers_and_is_never_deaf(spare):
    """No thread and no message has room any more: the server then refuses, or its process ends and is replaced."""
    large = message_of(random_maps(40, 12, 128, 128).astype(np.float32))
    with process_of("--log-level=error") as (process, endpoint), grpc.insecure_channel(endpoint) as channel:
        method = method_of(channel)
        method(SMALL)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + spare
        resource.prlimit(process.pid, resource.RLIMIT_AS, (most, most))
        with ThreadPoolExecutor(32) as pool:
            outcomes = Counter(pool.map(lambda message: outcome_of(method, message), [SMALL, large] * 32))
        assert "DEADLINE_EXCEEDED" not in outcomes
        process.terminate()
        assert process.wait(60) is not None


def heads_message(values, **fields):
    kind = {"float32": pb.DATA_TYPE_FLOAT32, "float16": pb.DATA_TYPE_FLOAT16}[values.dtype.name]
    tensor = pb.Tensor(data_type=kind, shape=values.shape, data=values.tobytes())
    return pb.ClassifyHeadsRequest(attention=tensor, **fields).SerializeToString()


def even(count, length, dtype=np.float16):
    return np.full((count, length, length), 1 / length, dtype)


def groups(count, *positions):
    return [pb.TokenGroup(name=str(number), positions=positions) for number in range(count)]


def infer_message(maps, tokens):
    texts = b"".join(len(token).to_bytes(4, "little") + token for token in tokens)
    kind = infer_pb.ModelInferRequest.InferInputTensor
    return infer_pb.ModelInferRequest(
        model_name=NAME,
        inputs=[
            kind(name="attention", datatype="FP16", shape=maps.shape),
            kind(name="tokens", datatype="BYTES", shape=[len(tokens)]),
        ],
        raw_input_contents=[maps.tobytes(), texts],
    ).SerializeToString()


def hostile_messages(limits):
    """Returns messages of much work or memory for their size, by name."""
    long = int((limits.message_bytes // 2 - 1000) ** 0.5)
    fitting = (limits.message_bytes - 4096) // (2 * 128 * 128)
    return {
        "empty groups": heads_message(even(1, 1)) + b"\x22\0" * (500 << 10),
        "empty tokens": heads_message(even(1, 1)) + b"\x1a\0" * (500 << 10),
        "most groups": heads_message(even(1, 64), token_groups=groups(limits.groups, *range(64))),
        "many small groups": heads_message(even(1, 9), token_groups=groups(90_000)),
        "most maps": heads_message(even(limits.maps, 2)),
        "a long map": heads_message(even(1, long)),
        "many maps": heads_message(even(fitting, 128), token_groups=groups(8, *range(0, 128, 2))),
        "the largest answer": heads_message(even(4000, 4), token_groups=groups(40, 1)),
        "images": pb.ClassifyImagesRequest(
            rendering_version=1, image_size=48, images=bytes(6912 * (limits.message_bytes // 6912 - 1))
        ).SerializeToString(),
        "long names": infer_message(even(1, 30), [b"<|%d" % n + b"x" * 100_000 + b"|>" for n in range(30)]),
    }


METHODS = {"images": "ClassifyImages"}


def hostile_method(channel, name):
    if name == "long names":
        return channel.unary_unary(f"/{INFERENCE}/ModelInfer")
    return method_of(channel, METHODS.get(name, "ClassifyHeads"))


def test_the_memory_is_what_check_promises():
    """All kinds of messages at once, several times each, by callers of whom some do not take their answers."""
    limits = Limits(message_bytes=16 * MIB, calls=16, bytes=192 * MIB)
    options = ("--max-message-mib=16", "--max-calls=16", "--max-bytes-mib=192")
    promised = run(*options, "--check").stdout
    assert f"{limits.memory // MIB:,} MiB" in promised
    messages = hostile_messages(limits)
    with serving(*options, "--log-level=error") as (process, endpoint):
        local = [("grpc.use_local_subchannel_pool", 1), *ANY_SIZE]
        channels = [grpc.insecure_channel(endpoint, options=local) for _ in range(4)]
        for _ in range(3):  # what the first calls load stays
            method_of(channels[0])(message_of(random_maps(12, 12, 128, 128).astype(np.float32)))
        before = Holdings.of(process.pid).peak
        work = [(name, channel) for name in messages for channel in channels for _ in range(2)]
        with ThreadPoolExecutor(16) as pool:
            outcomes = pool.map(
                lambda one: (one[0], outcome_of(hostile_method(one[1], one[0]), messages[one[0]], 300)), work
            )
            ended = Counter(outcomes)
        taken = Holdings.of(process.pid).peak - before
        for channel in channels:
            channel.close()
    assert taken <= limits.memory // MIB, ended
    assert not [name for name, code in ended if code in ("INTERNAL", "UNKNOWN", "UNAVAILABLE")], ended
    assert ended["a long map", "OK"]
    assert ended["most groups", "OK"]


@pytest.mark.parametrize("name", ["most groups", "most maps", "many maps", "the largest answer", "images"])
def test_work_ends_with_the_call_at_every_stage(name):
    """Four callers leave in the middle of long work; SIGTERM then finds nothing left to wait for."""
    message = hostile_messages(Limits(message_bytes=16 * MIB))[name]
    with (
        process_of("--grace=1", "--log-level=error") as (process, endpoint),
        grpc.insecure_channel(endpoint, options=ANY_SIZE) as channel,
    ):
        method = hostile_method(channel, name)
        for _ in range(3):
            calls = [method.future(message) for _ in range(4)]
            Event().wait(0.3)
            for call in calls:
                call.cancel()
        calls = [method.future(message) for _ in range(4)]
        Event().wait(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0  # and not by SIGALRM
