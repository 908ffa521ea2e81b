"""Messages that ask for much work or memory for their size."""

import numpy as np

from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.inference import open_inference_pb2 as infer_pb
from attention_patterns_service.server.open_inference.methods import NAME
from attention_patterns_service.server.open_inference.methods import SERVICE as INFERENCE
from tests.helpers.calls import method_of

ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


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


def method_for(channel, name):
    """Returns the method that takes the message of that name."""
    if name == "long names":
        return channel.unary_unary(f"/{INFERENCE}/ModelInfer")
    return method_of(channel, "ClassifyImages" if name == "images" else "ClassifyHeads")
