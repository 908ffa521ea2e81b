"""Inputs for the fuzzers: attention with what is declared of it, right and wrong, and messages, whole and torn.

Everything is drawn by one function, ``pick(low, high)``, which may be of a generator, of a fuzzer's bytes or of
hypothesis; where the bytes are used up it gives ``low``, which is harmless.
"""

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

MODEL = ModelBundle.read(None)
NET, VERSION, SIZE = MODEL.name, MODEL.version, MODEL.image_size
IMAGE = 3 * SIZE * SIZE  # bytes
FLOATS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float64": "<f8"}
NUMBERS = (0, 1, 2, 3, 5, 9, 47, 48, 49, 64, 2**27, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, -1, -9)
SMALLEST = {"float64": 5e-324, "float32": 1.4e-45, "bfloat16": 9.2e-41, "float16": 6e-8}  # numbers over 0
SPECIAL = (
    *(np.nan, np.inf, -np.inf, -0.0, 1.0, 2.0, -0.5, 65504.0, 3e38, 1e308, -1e308, 1e-310, -1e-310),
    *(sign * smallest for smallest in SMALLEST.values() for sign in (1, -1)),
)
WORDS = ("a", "[CLS]", "[SEP]", "[PAD]", "<|x|>", "<extra_id_7>", "", "é", "\0", "a" * 300, "margin", "attention_to.")
RAGGED = [[0], [0, 0]]
MOST = 1 << 17  # bytes of a message


class Draw:
    """Choices made by ``pick(low, high)``."""

    def __init__(self, pick):
        self.pick = pick

    def one(self, options):
        return options[self.pick(0, len(options) - 1)]

    def once_in(self, times):
        return self.pick(1, times) == times


@dataclass(frozen=True)
class Drawn:
    """Attention as it is stored, [..., L, L], of a type in FLOATS, and the other arguments of ``classify``."""

    values: np.ndarray
    data_type: str
    declared: dict


def drawn(draw):
    """Mostly attention, of which a part is padding, a part causal, a part spoilt."""
    length = draw.pick(*draw.one([(1, 12), (1, 3), (46, 50), (1, 70)]))
    shapes = [(), (2,), (1, 2), (1,), (1, 1)] if length > 12 else [(), (2,), (1, 2), (2, 2), (1,), (3, 1)]
    leading = (37,) if length < 6 and draw.once_in(32) else draw.one(shapes)  # more than are looked at together
    random = np.random.default_rng(draw.pick(0, 65535))
    logits = random.normal(0, draw.one([2.0, 0.0, 1.0, 30.0]), (int(np.prod(leading)), length, length))
    causal, kept = draw.once_in(3), np.ones(length, np.bool_)
    if draw.once_in(3):
        kept = np.arange(length) < draw.pick(1, length) if draw.once_in(2) else random.random(length) < 0.8
        kept[draw.pick(0, length - 1)] = True
    seen = np.broadcast_to(kept, (length, length)) & (np.tri(length, dtype=bool) if causal else np.True_)
    weights = np.where(seen, np.exp(logits - logits.max(-1, keepdims=True)), 0) + 1e-9 * np.eye(length)
    maps = weights / weights.sum(-1, keepdims=True)
    draw.one(_SPOILERS)(draw, maps, random)
    if not kept.all() and draw.once_in(2):
        maps[:, ~kept], maps[:, :, ~kept] = draw.one(SPECIAL), draw.one(SPECIAL)
    data_type = draw.one(list(FLOATS))
    values = stored(maps, data_type)
    if draw.once_in(24):
        values.view("u1")[..., draw.pick(0, length - 1), :] = random.integers(0, 256, values.view("u1").shape[-1])
    return Drawn(values.reshape(*leading, length, length), data_type, _declared(draw, length, kept))


def stored(maps, data_type):
    """Float64 as ``data_type``, bfloat16 cut."""
    with np.errstate(all="ignore"):
        if data_type == "bfloat16":
            return (np.ascontiguousarray(maps, "<f4").view("<u4") >> 16).astype("<u2")
        return np.ascontiguousarray(maps, FLOATS[data_type])


def _one(draw, maps, random):
    maps[_place(draw, maps)] = draw.one(SPECIAL)


def _row(draw, maps, random):
    maps[_place(draw, maps)[:2]] = draw.one(SPECIAL)


def _all(draw, maps, random):
    maps[:] = draw.one(SPECIAL)


def _zeros_below_zero(draw, maps, random):
    maps[maps == 0] = -0.0


def _lent(draw, maps, random):
    """Rows sum to 1, and one of their parts is perhaps negative."""
    n, i, j = _place(draw, maps)
    lent = draw.one([1e-30, 1e-7, 1e-3, 0.5, 7.0])
    maps[n, i, j] -= lent
    maps[n, i, j - 1] += lent


def _scores(draw, maps, random):
    with np.errstate(divide="ignore"):
        maps[:] = np.log(maps) if draw.once_in(2) else random.normal(size=maps.shape)


def _transposed(draw, maps, random):
    maps[:] = maps.swapaxes(1, 2).copy()


def _scaled(draw, maps, random):
    """To the edge of each tolerance and beyond it."""
    maps[_place(draw, maps)[: draw.pick(0, 2)]] *= 1 + draw.one([-1, 1]) * draw.one([0.0099, 0.0101, 0.0199, 0.0201, 1])
    maps *= draw.one([1, 1, 1.03, 0.95])


def _above(draw, maps, random):
    """A single weight above the diagonal."""
    maps[_place(draw, maps)[0], 0, -1] += draw.one([1e-3, 1e-30, 6e-8, -0.0])


def _untouched(draw, maps, random):
    pass


_SPOILERS = (_untouched,) * 10 + (
    *(_one, _row, _all, _zeros_below_zero, _zeros_below_zero),
    *(_lent, _scores, _transposed, _scaled, _scaled, _above),
)


def _place(draw, maps):
    return tuple(draw.pick(0, size - 1) for size in maps.shape)


def _declared(draw, length, kept):
    """Arguments of ``classify`` that fit, each wrong in turn."""
    every, count, declared = np.arange(length), int(kept.sum()), {}
    if not kept.all():
        prefix = kept[:count].all() and draw.once_in(2)
        declared = {"valid_length": count} if prefix else {"mask": draw.one([list, np.asarray])(kept.astype(int))}
    sizes = [length, count]
    if draw.once_in(3):
        declared["tokens"] = [draw.one(WORDS[:9]) for _ in range(draw.one(sizes))]
    if draw.once_in(3):
        names = dict.fromkeys(draw.one(WORDS[:1] + WORDS[6:]) for _ in range(draw.pick(1, 3)))
        declared["token_groups"] = {
            name: [int(draw.one(every[kept])) for _ in range(draw.pick(1, 4))] for name in names
        }
    if draw.once_in(3):
        half = draw.pick(0, count - 1)
        ids = [draw.one([0, 1, 5]) for _ in range(draw.one(sizes))]
        declared["segments"] = draw.one([ids, [count], [half, count - half] if half else ids, [length]])
    if draw.once_in(3):
        declared["causal"] = draw.one([True, False])
    if draw.once_in(6):
        name = draw.one(list(_WRONG))
        declared[name] = draw.one(_WRONG[name](length))
    return declared


_WRONG = {
    "valid_length": lambda size: [size, size + 1, 0, -1, 2**27, 2**31, 2**32 - 1, 2**64, True],
    "mask": lambda size: [[1] * size, [], [0] * size, [1] * (size + 1), [2] * size, [[1] * size], "1" * size, RAGGED],
    "tokens": lambda size: [["a"] * (size + 1), [], [1] * size, "a" * size, [b"a"] * size, ["\ud800"] * size],
    "segments": lambda size: [
        *([size + 1], [], [0], [-1] * size, [[0] * size], [0.5] * size, [2**64] * size, RAGGED, [None] * size),
        *([2**63 - 1, 2**63 - 1, size + 2], [2**27], [2**32 - 1]),
    ],
    "token_groups": lambda size: [
        *({"a": positions} for positions in ([], [size], [-1], [2**63], [2**70], ["0"], [0.0], RAGGED, [size - 1])),
        {"[CLS]": [0]},
    ],
}


def library_arguments(draw, one):
    """The arguments of ``classify``: the array as it is, in another guise, or another thing."""
    values, given = one.values, {"data_type": one.data_type} if one.data_type == "bfloat16" else {}
    if not draw.once_in(4):
        return values, given
    if draw.once_in(3):
        return values, {"data_type": draw.one([None, "bfloat16", "float32", "float16", "int8", ""])}
    with np.errstate(all="ignore"):
        return draw.one(_guises(draw, values)), given


def _guises(draw, values):
    as_float = values.astype(float)
    return [
        *(values[..., ::-1], values.swapaxes(-1, -2), np.asfortranarray(values), values.tolist(), values[None]),
        *(values[..., :-1], values[..., :-1, :-1], values[:0], values[0, 0], values[..., None], values.astype(">f4")),
        *(as_float.astype(int), as_float.astype(complex), as_float.astype(bool), as_float.astype(np.longdouble)),
        *(np.broadcast_to(values, (2, *values.shape)), values[(None,) * draw.pick(0, 60)], "9", None, RAGGED),
    ]


def heads_request(draw):
    """A ``ClassifyHeadsRequest``, most of the time one that is answered."""
    one = drawn(draw)
    declared, shape = one.declared, list(one.values.shape)
    request = pb.ClassifyHeadsRequest(
        request_id=draw.one(["", "a", "é" * 256, "x" * 257]) if draw.once_in(8) else "",
        attention=pb.Tensor(data_type=f"DATA_TYPE_{one.data_type.upper()}", shape=shape, data=one.values.tobytes()),
        tokens=_texts(declared),
        token_groups=[pb.TokenGroup(name=n, positions=_whole(p)) for n, p in declared.get("token_groups", {}).items()],
        valid_length=declared.get("valid_length", 0) % 2**32,
        mask=[bool(flag) for flag in declared.get("mask", ())],
        causality={None: 0, True: 1, False: 2}[declared.get("causal")],
    )
    segments = _whole(declared.get("segments", []))
    are_lengths = sum(segments) in (shape[-1], 2**27, 2**32 - 1)
    (request.segment_lengths if are_lengths else request.segment_ids).extend(segments)
    if draw.once_in(4):
        request.first_layer, request.first_head = draw.one([0, 6, 2**32 - 2]), draw.one([0, 3, 2**32 - 1])
    for name, size in (("layers", shape[:-3]), ("heads", shape[:-2][-1:])):
        if size and draw.once_in(6):
            first = getattr(request, f"first_{name[:-1]}")
            chosen = [size[0] - 1, 0][: draw.pick(1, size[0])] if not draw.once_in(6) else [size[0], 0, 0]
            getattr(request, name).extend((first + place) % 2**32 for place in chosen)
    if draw.once_in(16):
        request.token_groups.add(name=draw.one(WORDS), positions=[draw.pick(0, shape[-1])])
    if draw.once_in(16):
        del request.attention.shape[:]
        request.attention.shape.extend(draw.one(wrong_shapes(shape, draw.pick(0, 70))))
    return request


def wrong_shapes(shape, axes):
    """Shapes of other axes, empty, of another size, and of more values than 64 bits count."""
    return [
        *(shape[1:], [1] * axes + shape, [0] * axes, [0, 2**63, *shape], [2**31], [2**31, 1, 1], [2**32, 2**32]),
        *([2**63] * axes, [2**63 - 1] * 300, [shape[-1] ** 2], shape[:-1], [*shape[:-1], shape[-1] + 1], [2**16] * 4),
    ]


def stream_request(draw):
    return pb.StreamClassifyHeadsRequest(request=heads_request(draw))


def images_request(draw):
    count, random = draw.pick(1, 3), np.random.default_rng(draw.pick(0, 65535))
    size = count * IMAGE + (draw.one([-1, 1, -count * IMAGE]) if draw.once_in(8) else 0)
    return pb.ClassifyImagesRequest(
        request_id=draw.one(["", "a", "x" * 257]) if draw.once_in(8) else "",
        rendering_version=draw.one([0, 2]) if draw.once_in(8) else 1,
        image_size=draw.one([0, SIZE - 1, SIZE + 1]) if draw.once_in(8) else SIZE,
        images=random.integers(draw.one([0, 255]), 256, size, np.uint8).tobytes(),
    )


def infer_request(draw):
    """A ``ModelInferRequest`` to either model, its values raw or in contents."""
    kinds = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float64": "FP64"}
    model = draw.one([NAME, NAME, NAME, NET])
    request = infer_pb.ModelInferRequest(model_name=draw.one(["", "bert"]) if draw.once_in(12) else model)
    if draw.once_in(8):
        request.model_version, request.id = draw.one(["", "7", VERSION]), draw.one(["", "a", "x" * 257])
        request.parameters["a"].int64_param = 1
    tensors = []
    if model == NET:
        images = np.frombuffer(images_request(draw).images, np.uint8)
        tensors.append(("images", "UINT8", [len(images) // IMAGE, 3, SIZE, SIZE], images))
    else:
        one = drawn(draw)
        tensors.append(("attention", kinds[one.data_type], list(one.values.shape), one.values))
        if "tokens" in one.declared:
            tensors.append(("tokens", "BYTES", None, [text.encode() for text in _texts(one.declared)]))
        if "segments" in one.declared:
            wide = draw.one([("INT32", "<i4"), ("INT64", "<i8")])
            tensors.append(("segments", wide[0], None, np.array(_whole(one.declared["segments"])).astype(wide[1])))
        if "mask" in one.declared:
            tensors.append(("mask", "BOOL", None, np.array([bool(flag) for flag in one.declared["mask"]], "u1")))
    typed = draw.once_in(3) and tensors[0][1] in CONTENTS
    for name, datatype, shape, values in draw.one([tensors, tensors[::-1]]):
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape or [len(values)])
        if draw.once_in(24):
            del tensor.shape[:]
            tensor.shape.extend(size % 2**63 for size in draw.one(wrong_shapes(shape or [3, 3], draw.pick(0, 70))))
        if typed:
            getattr(tensor.contents, CONTENTS[datatype]).extend(_flat(values))
        else:
            request.raw_input_contents.append(_raw(values))
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


def _raw(values):
    if isinstance(values, list):
        return b"".join(len(text).to_bytes(4, "little") + text for text in values)
    return values.tobytes()


def describing_request(kind):
    """Draws a request of ``kind``, which names a model or is empty."""

    def request(draw):
        if not kind.DESCRIPTOR.fields:
            return kind()
        return kind(name=draw.one([NAME, NET, "", "bert"]), version=draw.one(["", VERSION, "7"]))

    return request


def _texts(declared):
    texts = [text for text in declared.get("tokens", ()) if isinstance(text, str)]
    return [text.encode(errors="replace").decode() for text in texts]


def _whole(values):
    return [value % 2**32 for value in values if isinstance(value, int)]


def tampered(draw, message):
    """Changes a field of a message, or of a message in it."""
    fields = message.DESCRIPTOR.fields
    held = [field for field, _ in message.ListFields() if field.cpp_type == Field.CPPTYPE_MESSAGE]
    field = draw.one([*fields, *held * 4])
    values = getattr(message, field.name)
    if field.message_type and field.message_type.GetOptions().map_entry:
        return
    if not field.is_repeated:
        if field.cpp_type == Field.CPPTYPE_MESSAGE:
            tampered(draw, values)
        else:
            setattr(message, field.name, _scalar(draw, field, values))
        return
    change = draw.pick(0, 4)
    if change == 0 and len(values):
        del values[draw.pick(0, len(values) - 1)]
    elif change == 1:
        del values[:]
    elif change == 2 and len(values):
        values.extend([draw.one(values)] * draw.one([1, 1, 1, 70]))
    elif field.cpp_type != Field.CPPTYPE_MESSAGE:
        values.append(_scalar(draw, field, values[0] if len(values) else None))
    elif len(values) and change == 3:
        tampered(draw, draw.one(values))
    else:
        tampered(draw, values.add())


_LOWEST = {  # and as many numbers from there
    **{Field.CPPTYPE_INT32: (-(2**31), 2**32), Field.CPPTYPE_INT64: (-(2**63), 2**64)},
    **{Field.CPPTYPE_UINT32: (0, 2**32), Field.CPPTYPE_UINT64: (0, 2**64), Field.CPPTYPE_ENUM: (-(2**31), 2**32)},
}


def _scalar(draw, field, old):
    if field.cpp_type in _LOWEST:
        low, count = _LOWEST[field.cpp_type]
        return low + (draw.one(NUMBERS) - low) % count
    if field.cpp_type in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
        return draw.one(SPECIAL)
    if field.cpp_type == Field.CPPTYPE_BOOL:
        return not old
    if field.type == Field.TYPE_STRING:
        return draw.one(WORDS)
    return _bytes(draw, bytearray(old or b""))


def _bytes(draw, old):
    """Cut, lengthened, or with one value overwritten that may stand anywhere."""
    change = draw.pick(0, 5)
    if change == 0 or not old:
        return bytes(draw.pick(0, 10))
    if change == 1:
        return bytes(old[: draw.pick(0, len(old))])
    if change == 2:
        return bytes(old + old[: draw.pick(1, len(old))])
    piece = stored(np.array(draw.one(SPECIAL)), draw.one(list(FLOATS))).tobytes()
    place = draw.pick(0, len(old) // len(piece)) * len(piece)
    old[place : place + len(piece)] = piece
    return bytes(old)


# As no generated code writes it: empty fields, invalid UTF-8, groups, numbers longer than they need be or cut.
_SCRAPS = (
    *(b"\x12\x02\x1a\x00", b"\x1a\x00", b"\x3a\x00", b"\x22\x00", b"\x0a\x01\xff", b"\x1a\x02\xc0\x80"),
    *(b"\x0b\x0c", b"\x0b", b"\x0c", b"\x0e", b"\x00\x00", b"\x02\x00", b"\x80", b"\xff" * 10, b"\x7a\x01x"),
    *(b"\x92\x80\x00\x00", b"\x92\x80\x80\x80\x80\x00\x00", b"\x38\x80\x80\x80\x80\x10", b"\x09" + bytes(8)),
    *(b"\x12\x85" + b"\x80" * 8 + b"\x02\x1a\x03abc", b"\x12\xff\xff\xff\xff\x0f", b"\x0d" + bytes(4)),
)


def _torn(draw, data):
    if draw.once_in(4) and data:  # the first tag, longer than it need be
        return bytes([data[0] | 0x80]) + bytes([0x80] * draw.pick(0, 8)) + b"\0" + data[1:]
    place = draw.one([0, len(data), draw.pick(0, len(data))])
    return data[:place] + draw.one(_SCRAPS) + data[place:]


@dataclass(frozen=True)
class Messages:
    """Messages of a kind, drawn whole, tampered with, or torn."""

    kind: type
    whole: Callable[[Draw], object]

    def seed(self, number):
        """A whole message."""
        return self.whole(Draw(Random(number).randint)).SerializeToString()

    def mutated(self, data, number, scrambled):
        """Another message; ``scrambled`` changes bytes blindly."""
        draw = Draw(Random(number).randint)
        way = draw.pick(0, 9)
        if way < 8:
            old = self._read(data) if way == 7 else None
            message = old or self.whole(draw)
            for _ in range(draw.pick(1, 3) if way > 5 and self.kind.DESCRIPTOR.fields else 0):
                tampered(draw, message)
            data = message.SerializeToString()
        if way in (4, 8) and draw.once_in(4):
            data = _torn(draw, data)
        return scrambled(data) if way == 9 else data

    def _read(self, data):
        try:
            return self.kind.FromString(data)
        except DecodeError:
            return None
