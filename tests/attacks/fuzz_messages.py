"""Messages for the fuzzers: drawn whole, tampered with, or torn."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import DecodeError

from attention_patterns.bundle import ModelBundle
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.inference import open_inference_pb2 as infer_pb
from attention_patterns_service.server.open_inference.methods import NAME
from tests.attacks.fuzz_seeds import FLOATS, SPECIAL, WORDS, Draw, draw_attention, store

MODEL = ModelBundle.read(None)
NET, VERSION, SIZE = MODEL.name, MODEL.version, MODEL.image_size
IMAGE = 3 * SIZE * SIZE  # bytes
MOST = 1 << 17  # bytes of a message
NUMBERS = (0, 1, 2, 3, 5, 9, 47, 48, 49, 64, 2**27, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, -1, -9)


def heads_request(draw):
    """Draws a ``ClassifyHeadsRequest``, most of the time one that is answered."""
    drawn = draw_attention(draw)
    declared, shape = drawn.declared, list(drawn.values.shape)
    request = pb.ClassifyHeadsRequest(
        request_id=draw.choose(["", "a", "é" * 256, "x" * 257]) if draw.once_in(8) else "",
        attention=pb.Tensor(data_type=f"DATA_TYPE_{drawn.data_type.upper()}", shape=shape, data=drawn.values.tobytes()),
        tokens=_valid_texts(declared),
        token_groups=[pb.TokenGroup(name=n, positions=_whole(p)) for n, p in declared.get("token_groups", {}).items()],
        valid_length=declared["valid_length"] % 2**32 if "valid_length" in declared else None,
        mask=[bool(flag) for flag in declared.get("mask", ())],
        causality={None: 0, True: 1, False: 2}[declared.get("causal")],
    )
    segments = _whole(declared.get("segments", []))
    are_lengths = sum(segments) in (shape[-1], 2**27, 2**32 - 1)
    (request.segment_lengths if are_lengths else request.segment_ids).extend(segments)
    if draw.once_in(4):
        request.first_layer, request.first_head = draw.choose([0, 6, 2**32 - 2]), draw.choose([0, 3, 2**32 - 1])
    for name, size in (("layers", shape[:-3]), ("heads", shape[:-2][-1:])):
        if size and draw.once_in(6):
            first = getattr(request, f"first_{name[:-1]}")
            chosen = [size[0] - 1, 0][: draw.pick(1, size[0])] if not draw.once_in(6) else [size[0], 0, 0]
            getattr(request, name).extend((first + place) % 2**32 for place in chosen)
    if draw.once_in(16):
        request.token_groups.add(name=draw.choose(WORDS), positions=[draw.pick(0, shape[-1])])
    if draw.once_in(16):
        del request.attention.shape[:]
        request.attention.shape.extend(draw.choose(wrong_shapes(shape, draw.pick(0, 70))))
    return request


def wrong_shapes(shape, axes):
    """Returns shapes of other axes, empty, of another size, and of more values than 64 bits count."""
    return [
        *(shape[1:], [1] * axes + shape, [0] * axes, [0, 2**63, *shape], [2**31], [2**31, 1, 1], [2**32, 2**32]),
        *([2**63] * axes, [2**63 - 1] * 300, [shape[-1] ** 2], shape[:-1], [*shape[:-1], shape[-1] + 1], [2**16] * 4),
    ]


def stream_request(draw):
    """Draws a ``StreamClassifyHeadsRequest``."""
    return pb.StreamClassifyHeadsRequest(request=heads_request(draw))


def images_request(draw):
    """Draws a ``ClassifyImagesRequest``."""
    count, random = draw.pick(1, 3), np.random.default_rng(draw.pick(0, 65535))
    size = count * IMAGE + (draw.choose([-1, 1, -count * IMAGE]) if draw.once_in(8) else 0)
    return pb.ClassifyImagesRequest(
        request_id=draw.choose(["", "a", "x" * 257]) if draw.once_in(8) else "",
        rendering_version=draw.choose([0, 2]) if draw.once_in(8) else 1,
        image_size=draw.choose([0, SIZE - 1, SIZE + 1]) if draw.once_in(8) else SIZE,
        images=random.integers(draw.choose([0, 255]), 256, size, np.uint8).tobytes(),
    )


def infer_request(draw):
    """Draws a ``ModelInferRequest`` to either model, its values raw or in contents."""
    kinds = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float64": "FP64"}
    model = draw.choose([NAME, NAME, NAME, NET])
    request = infer_pb.ModelInferRequest(model_name=draw.choose(["", "bert"]) if draw.once_in(12) else model)
    if draw.once_in(8):
        request.model_version, request.id = draw.choose(["", "7", VERSION]), draw.choose(["", "a", "x" * 257])
        request.parameters["a"].int64_param = 1
    tensors = []
    if model == NET:
        images = np.frombuffer(images_request(draw).images, np.uint8)
        tensors.append(("images", "UINT8", [len(images) // IMAGE, 3, SIZE, SIZE], images))
    else:
        drawn = draw_attention(draw)
        tensors.append(("attention", kinds[drawn.data_type], list(drawn.values.shape), drawn.values))
        if "tokens" in drawn.declared:
            tensors.append(("tokens", "BYTES", None, [text.encode() for text in _valid_texts(drawn.declared)]))
        if "segments" in drawn.declared:
            wide = draw.choose([("INT32", "<i4"), ("INT64", "<i8")])
            tensors.append(("segments", wide[0], None, np.array(_whole(drawn.declared["segments"])).astype(wide[1])))
        if "mask" in drawn.declared:
            tensors.append(("mask", "BOOL", None, np.array([bool(flag) for flag in drawn.declared["mask"]], "u1")))
    typed = draw.once_in(3) and tensors[0][1] in CONTENTS
    for name, datatype, shape, values in draw.choose([tensors, tensors[::-1]]):
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape or [len(values)])
        if draw.once_in(24):
            del tensor.shape[:]
            tensor.shape.extend(size % 2**63 for size in draw.choose(wrong_shapes(shape or [3, 3], draw.pick(0, 70))))
        if typed:
            getattr(tensor.contents, CONTENTS[datatype]).extend(_flat(values))
        else:
            request.raw_input_contents.append(_write_raw(values))
    if draw.once_in(6):
        names = ["probabilities", "margin", "pattern", "stripes", "segment_mass", "attention_to.[CLS].share", ""]
        for name in names[: draw.pick(1, 3) if draw.once_in(2) else draw.pick(4, 7)]:
            request.outputs.add(name=name)
    return request


CONTENTS = {
    **{"BOOL": "bool_contents", "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents"},
    **{"FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"},
}


def _flat(values):
    return values if isinstance(values, list) else values.ravel().tolist()


def _write_raw(values):
    if isinstance(values, list):
        return b"".join(len(text).to_bytes(4, "little") + text for text in values)
    return values.tobytes()


def describing_request(kind):
    """Returns a function that draws requests of ``kind``, which name a model or are empty."""

    def request(draw):
        if not kind.DESCRIPTOR.fields:
            return kind()
        return kind(name=draw.choose([NAME, NET, "", "bert"]), version=draw.choose(["", VERSION, "7"]))

    return request


def _valid_texts(declared):
    texts = [text for text in declared.get("tokens", ()) if isinstance(text, str)]
    return [text.encode(errors="replace").decode() for text in texts]


def _whole(values):
    return [value % 2**32 for value in values if isinstance(value, int)]


def tamper(draw, message):
    """Changes a field of a message, or of a message in it."""
    fields = message.DESCRIPTOR.fields
    held = [field for field, _ in message.ListFields() if field.cpp_type == Field.CPPTYPE_MESSAGE]
    field = draw.choose([*fields, *held * 4])
    values = getattr(message, field.name)
    if field.message_type and field.message_type.GetOptions().map_entry:
        return
    if not field.is_repeated:
        if field.cpp_type == Field.CPPTYPE_MESSAGE:
            tamper(draw, values)
        else:
            setattr(message, field.name, _draw_scalar(draw, field, values))
        return
    change = draw.pick(0, 4)
    if change == 0 and len(values):
        del values[draw.pick(0, len(values) - 1)]
    elif change == 1:
        del values[:]
    elif change == 2 and len(values):
        values.extend([draw.choose(values)] * draw.choose([1, 1, 1, 70]))
    elif field.cpp_type != Field.CPPTYPE_MESSAGE:
        values.append(_draw_scalar(draw, field, values[0] if len(values) else None))
    elif len(values) and change == 3:
        tamper(draw, draw.choose(values))
    else:
        tamper(draw, values.add())


_LOWEST = {  # and as many numbers from there
    **{Field.CPPTYPE_INT32: (-(2**31), 2**32), Field.CPPTYPE_INT64: (-(2**63), 2**64)},
    **{Field.CPPTYPE_UINT32: (0, 2**32), Field.CPPTYPE_UINT64: (0, 2**64), Field.CPPTYPE_ENUM: (-(2**31), 2**32)},
}


def _draw_scalar(draw, field, old):
    if field.cpp_type in _LOWEST:
        low, count = _LOWEST[field.cpp_type]
        return low + (draw.choose(NUMBERS) - low) % count
    if field.cpp_type in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
        return draw.choose(SPECIAL)
    if field.cpp_type == Field.CPPTYPE_BOOL:
        return not old
    if field.type == Field.TYPE_STRING:
        return draw.choose(WORDS)
    return _change_bytes(draw, bytearray(old or b""))


def _change_bytes(draw, old):
    """Returns bytes cut, lengthened, or with a value overwritten that may stand anywhere."""
    change = draw.pick(0, 5)
    if change == 0 or not old:
        return bytes(draw.pick(0, 10))
    if change == 1:
        return bytes(old[: draw.pick(0, len(old))])
    if change == 2:
        return bytes(old + old[: draw.pick(1, len(old))])
    value = store(np.array(draw.choose(SPECIAL)), draw.choose(list(FLOATS))).tobytes()
    place = draw.pick(0, len(old) // len(value)) * len(value)
    old[place : place + len(value)] = value
    return bytes(old)


# Bytes that no generated code writes: empty fields, invalid UTF-8, groups, numbers longer than they need be or cut.
_SCRAPS = (
    *(b"\x12\x02\x1a\x00", b"\x1a\x00", b"\x3a\x00", b"\x22\x00", b"\x0a\x01\xff", b"\x1a\x02\xc0\x80"),
    *(b"\x0b\x0c", b"\x0b", b"\x0c", b"\x0e", b"\x00\x00", b"\x02\x00", b"\x80", b"\xff" * 10, b"\x7a\x01x"),
    *(b"\x92\x80\x00\x00", b"\x92\x80\x80\x80\x80\x00\x00", b"\x38\x80\x80\x80\x80\x10", b"\x09" + bytes(8)),
    *(b"\x12\x85" + b"\x80" * 8 + b"\x02\x1a\x03abc", b"\x12\xff\xff\xff\xff\x0f", b"\x0d" + bytes(4)),
)


def _tear(draw, data):
    if draw.once_in(4) and data:  # the first tag, longer than it need be
        return bytes([data[0] | 0x80]) + bytes([0x80] * draw.pick(0, 8)) + b"\0" + data[1:]
    place = draw.choose([0, len(data), draw.pick(0, len(data))])
    return data[:place] + draw.choose(_SCRAPS) + data[place:]


@dataclass(frozen=True)
class Messages:
    """Messages of a kind, drawn whole, tampered with, or torn.

    Attributes:
        kind: Class of the messages.
        draw_whole: Draws a whole message.
    """

    kind: type
    draw_whole: Callable[[Draw], object]

    def seed(self, number):
        """Returns a whole message as bytes."""
        return self.draw_whole(Draw(Random(number).randint)).SerializeToString()

    def mutate(self, data, number, scramble):
        """Returns another message; ``scramble`` changes bytes blindly."""
        draw = Draw(Random(number).randint)
        way = draw.pick(0, 9)
        if way < 8:
            old = self._read(data) if way == 7 else None
            message = old or self.draw_whole(draw)
            for _ in range(draw.pick(1, 3) if way > 5 and self.kind.DESCRIPTOR.fields else 0):
                tamper(draw, message)
            data = message.SerializeToString()
        if way in (4, 8) and draw.once_in(4):
            data = _tear(draw, data)
        return scramble(data) if way == 9 else data

    def _read(self, data):
        try:
            return self.kind.FromString(data)
        except DecodeError:
            return None
