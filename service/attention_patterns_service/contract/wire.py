"""Large bytes fields beside their messages: written without assembling, and read in place.

Generated protobuf code copies a bytes field when a message is made, when it is serialised, when it is parsed and at
each access. Here a message goes without its payload, which is joined to it once when it is sent and stays where it
arrived when it is received. The bytes on the wire are plain protobuf.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from attention_patterns.errors import MessageError

DECLARATIONS = 1 << 20  # most bytes of a request besides its payload
_GROWTH = 64  # bytes in memory, at most, per byte of small fields once they are parsed and listed
_COPIES = 4  # bytes in memory, at most, per byte of flat fields
_SMALL = 4096  # most bytes of a request without a payload
_Message = TypeVar("_Message", bound=Message)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_TAG = 5  # bytes
_FIELDS = 10_000  # most fields of a message that are searched
_MOST_FLAT = 8  # most fields of one number that count as flat
_FIXED = {_FIXED64: 8, _FIXED32: 4}  # sizes in bytes


@dataclass(frozen=True)
class Parcel(Generic[_Message]):
    """A message and the bytes field beside it, which is None where the message has none or holds it itself."""

    message: _Message
    payload: memoryview | bytes | None


@dataclass(frozen=True)
class Route(Generic[_Message]):
    """The way to the payload in messages of one kind.

    Attributes:
        kind: Class of the messages.
        path: Numbers of the fields on the way, the last a bytes field.
        rest: Most bytes besides the payload, since small fields grow when they are parsed.
        flat: Paths to other fields, which take no more than their bytes once parsed and do not count as rest.
    """

    kind: type[_Message]
    path: tuple[int, ...]
    rest: int = 1 << 31
    flat: tuple[tuple[int, ...], ...] = ()

    def write(self, parcel: Parcel[_Message]) -> bytes:
        """Returns the message with its payload, as it travels."""
        rest = parcel.message.SerializeToString()
        if parcel.payload is None:
            return rest
        return b"".join(_insert_payload(memoryview(rest), self.path, parcel.payload))

    def open(self, data: bytes) -> "Opened[_Message]":
        """Finds the payload, and does not parse anything yet.

        Raises:
            DecodeError: ``data`` has too many bytes besides its payload.
        """
        rest, payload = _take_payload_out(memoryview(data), self.path)
        if payload is None:
            rest = data
        small, flat = len(rest), 0
        if small > self.rest:
            flat = sum(_measure_fields(memoryview(rest), path) for path in self.flat)
            small -= flat
        if small > self.rest:
            raise DecodeError(f"it has {small} bytes besides its payload, expected at most {self.rest}")
        return Opened(self.kind, rest, payload, memory=_GROWTH * small + _COPIES * flat)

    def read(self, data: bytes) -> Parcel[_Message]:
        """Returns the message, and its payload as a view of ``data``.

        Raises:
            DecodeError: ``data`` is not a message of this kind, or has too many bytes besides its payload.
        """
        return self.open(data).parse()


@dataclass(frozen=True)
class Opened(Generic[_Message]):
    """A message whose payload was found, and which is not parsed yet.

    Attributes:
        kind: Class of the message.
        rest: Bytes of the message without its payload.
        payload: Payload, None where there is none or ``rest`` holds it.
        memory: Most bytes that the parsed message takes.
    """

    kind: type[_Message]
    rest: bytes
    payload: memoryview | bytes | None
    memory: int

    def parse(self) -> Parcel[_Message]:
        """Returns the message and its payload.

        Raises:
            DecodeError: The bytes are not a message of this kind.
        """
        return Parcel(self.kind.FromString(self.rest), self.payload)


def read_small(kind: type[_Message], data: bytes) -> _Message:
    """Returns a message of a kind that has no payload and needs none of the load.

    Raises:
        MessageError: ``data`` is too large or no message of this kind.
    """
    if len(data) > _SMALL:
        raise MessageError(f"the message has {len(data)} bytes, expected at most {_SMALL} of a {kind.DESCRIPTOR.name}")
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MessageError(f"the message is not a {kind.DESCRIPTOR.name}: {error}") from error


def _insert_payload(rest: memoryview, path: tuple[int, ...], payload: memoryview | bytes) -> list[memoryview | bytes]:
    if len(path) == 1:
        return [_write_head(path[0], len(payload)), payload, rest]
    before, inner, after = _split(rest, path[0]) or (rest, rest[:0], rest[:0])
    pieces = _insert_payload(inner, path[1:], payload)
    return [_write_head(path[0], sum(map(len, pieces))), *pieces, before, after]  # in front: met first by a reader


def _take_payload_out(data: memoryview, path: tuple[int, ...]) -> tuple[bytes, memoryview | None]:
    split = _split(data, path[0])
    if split is None:
        return b"", None
    before, inner, after = split
    if len(path) == 1:
        return b"".join((before, after)), inner
    rest, payload = _take_payload_out(inner, path[1:])
    return b"".join((before, _write_head(path[0], len(rest)), rest, after)), payload


def _measure_fields(data: memoryview, path: tuple[int, ...]) -> int:
    """Returns the number of bytes of the fields at the end of ``path``."""
    size = 0
    for _ in range(_MOST_FLAT):
        split = _split(data, path[0])
        if split is None:
            break
        _, inner, data = split
        size += _measure_fields(inner, path[1:]) if path[1:] else len(inner)
    return size


def _split(data: memoryview, number: int) -> tuple[memoryview, memoryview, memoryview] | None:
    """Returns the bytes before, in and after the first field of a number; None where it is missing or unreadable."""
    begin = 0
    try:
        for _ in range(_FIELDS):
            if begin == len(data):
                break
            tag, end = _read_varint(data, begin)
            if end - begin > _LONGEST_TAG:
                return None
            kind = tag & 7
            if kind == _BYTES:
                size, first = _read_varint(data, end)
                end = first + size
                if end > len(data):
                    return None
                if tag >> 3 == number:
                    return data[:begin], data[first:end], data[end:]
            elif kind == _VARINT:
                end = _read_varint(data, end)[1]
            elif kind in _FIXED:
                end += _FIXED[kind]
            else:
                return None
            begin = end
    except IndexError:  # the data end within a varint
        pass
    return None


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Returns the number that starts at ``position``, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError("a varint has more than 10 bytes")


def _write_head(number: int, size: int) -> bytes:
    """Returns the tag and size that stand before a bytes field or a message in a message."""
    return _write_varint(number << 3 | _BYTES) + _write_varint(size)


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


__all__ = ["DECLARATIONS", "DecodeError", "Opened", "Parcel", "Route", "read_small"]
