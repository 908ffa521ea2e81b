"""Bytes that are read in place: of a file, or of a member of a zip archive with its checksum compared."""

import zipfile
import zlib
from abc import ABC, abstractmethod
from typing import BinaryIO, cast

from attention_patterns.errors import SourceError

_BLOCK = 2**18  # bytes summed at a time: while they are in the processor's cache
_SKIP = 2**20  # bytes read at a time where they are only skipped
_LOCAL_HEADER = 30  # bytes of a zip member before its name


class ByteSource(ABC):
    """Bytes that can be read from any position; ``size`` is their number."""

    size: int

    @abstractmethod
    def fill(self, place: int, memory: memoryview) -> None:
        """Reads from ``place`` into ``memory`` until it is full."""

    def finish(self) -> None:  # noqa: B027 - a plain file has no checksum
        """Reads to the end, where there is a checksum to compare."""


class FileBytes(ByteSource):
    """The bytes of a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = stream.seek(0, 2)

    def fill(self, place: int, memory: memoryview) -> None:
        """Seeks and reads; the interpreter is free meanwhile."""
        self._stream.seek(place)
        done = 0
        while done < len(memory):
            count = self._stream.readinto(memory[done:])  # type: ignore[attr-defined]
            if not count:
                raise SourceError(f"the file ends after {place + done} bytes, expected {len(memory) - done} more")
            done += count


class MemberBytes(ByteSource):
    """The bytes of a member of a zip archive, read from front to back; their checksum is compared at the end."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: FileBytes) -> None:
        self._archive, self._info, self._file = archive, info, file
        self.size = info.file_size
        self._plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        self._checked = False
        self._member: zipfile.ZipExtFile | None = None
        self._rewind()

    def _rewind(self) -> None:
        if self._member is not None:
            self._member.close()
        self._position = self._sum = 0
        self._member = cast(zipfile.ZipExtFile, self._archive.open(self._info))  # checks that the directory is right
        if self._plain:
            lengths = bytearray(_LOCAL_HEADER)
            self._file.fill(self._info.header_offset, memoryview(lengths))
            extra = int.from_bytes(lengths[26:28], "little") + int.from_bytes(lengths[28:30], "little")
            self._begin = self._info.header_offset + _LOCAL_HEADER + extra

    def fill(self, place: int, memory: memoryview) -> None:
        """Skips the bytes before ``place``, or starts again where they are behind; seeks once all were checked."""
        if self._plain and self._checked:
            self._file.fill(self._begin + place, memory)
            return
        if place < self._position:
            self._rewind()
        self._skip_to(place)
        self._read(memory)

    def finish(self) -> None:
        """Reads to the end, where the checksum is compared."""
        self._skip_to(self.size)

    def _skip_to(self, place: int) -> None:
        if place > self._position:
            skipped = memoryview(bytearray(min(_SKIP, place - self._position)))
            while self._position < place:
                self._read(skipped[: place - self._position])

    def _read(self, memory: memoryview) -> None:
        if self._plain:  # as ZipExtFile does it, without its copies
            for begin in range(0, len(memory), _BLOCK):
                block = memory[begin : begin + _BLOCK]
                self._file.fill(self._begin + self._position + begin, block)
                self._sum = zlib.crc32(block, self._sum)
        else:
            self._inflate(memory)
        self._position += len(memory)
        if self._position == self.size:
            if self._plain and self._sum != self._info.CRC:
                raise SourceError(f"Bad CRC-32 for file {self._info.filename!r}")
            self._checked = True

    def _inflate(self, memory: memoryview) -> None:
        done = 0
        while done < len(memory):
            count = cast(zipfile.ZipExtFile, self._member).readinto(memory[done:])
            if not count:
                raise SourceError(f"{self._info.filename} ends after {self._position + done} of {self.size} bytes")
            done += count


def read_bytes(source: ByteSource, place: int, count: int) -> bytes:
    """Returns ``count`` bytes from ``place``."""
    memory = bytearray(count)
    source.fill(place, memoryview(memory))
    return bytes(memory)
