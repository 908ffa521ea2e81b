"""The limits of a server, and the checks of a request against them."""

import resource
import sys
from dataclasses import dataclass, field, fields

from attention_patterns.attention_map import AttentionMaps, Declaration
from attention_patterns.errors import InvalidSettingsError, RequestLimitError

MIB = 1 << 20
DAY = 86_400  # seconds, the most that any limit of time may have
OTHER_FILES = 64  # of a server besides its connections: libraries, logs, files that are read again, the metrics page
_MOST = {"message_bytes": 2047 * MIB, "seconds": DAY, "idle_seconds": DAY}  # gRPC counts bytes in 32 bits
_MOST_CONNECTIONS = 4096
_MEASURES_BYTES = 32  # of a token group's measures in the answer to a map, besides its name
_MOST_MEASURES_BYTES = 16 * MIB  # per answer: some 25 groups for each of the most maps


def connections_by_open_files() -> int:
    """Returns the number of connections that the limit of open files of this process (``ulimit -n``) has room for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(_MOST_CONNECTIONS, files - OTHER_FILES))


def check_range(name: str, value: float, *, most: float, zero: bool = False) -> None:
    """Checks that a number is above 0, or with ``zero`` at least 0, and at most ``most``.

    Raises:
        InvalidSettingsError: It is not, or is no number.
    """
    if not (0 < value <= most or (zero and value == 0)):
        raise InvalidSettingsError(
            f"{name} is {value:,}, expected {'at least' if zero else 'above'} 0 and at most {most:,}"
        )


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        message_bytes: Largest message taken.
        maps: Most maps in a request.
        length: Most tokens of a map, padding included.
        calls: Most calls accepted and not yet answered; an open stream is one.
        bytes: Most bytes of messages received and not yet answered, all calls together.
        seconds: Longest time that a request may take, where its own deadline is not earlier.
        idle_seconds: Longest time that an open stream may stay silent.
        connections: Most connections at a time; by default as many as the limit of open files leaves room for.

    Raises:
        InvalidSettingsError: A value makes no sense, or two of them do not fit together.
    """

    message_bytes: int = 72 * MIB
    maps: int = 16_384
    length: int = 8192
    calls: int = 32
    bytes: int = 512 * MIB
    seconds: float = 60.0
    idle_seconds: float = 300.0
    connections: int = field(default_factory=connections_by_open_files)

    def __post_init__(self) -> None:
        for limit in fields(self):
            check_range(f"limit '{limit.name}'", getattr(self, limit.name), most=_MOST.get(limit.name, sys.maxsize))
        if self.bytes < self.message_bytes:
            raise InvalidSettingsError(
                f"limit 'bytes' is {self.bytes:,}, expected room for the largest message, 'message_bytes', of "
                f"{self.message_bytes:,}"
            )

    def check(self, maps: AttentionMaps) -> None:
        """Refuses maps over the limits.

        Raises:
            RequestLimitError: There are too many maps, or they are too long.
        """
        self.check_count(len(maps.values))
        if maps.length > self.length:
            raise RequestLimitError(f"attention is of {maps.length} tokens, expected at most {self.length}")

    def check_answer(self, maps: AttentionMaps, declaration: Declaration) -> None:
        """Refuses maps whose answer would be too large: per map it holds the name and measures of each token group.

        Raises:
            RequestLimitError: The answer would be too large.
        """
        size = len(maps.values) * sum(_MEASURES_BYTES + len(group.name.encode()) for group in declaration.groups)
        if size > _MOST_MEASURES_BYTES:
            raise RequestLimitError(
                f"{len(maps.values)} maps measured for {len(declaration.groups)} token groups make an answer of {size} "
                f"bytes, expected at most {_MOST_MEASURES_BYTES}; send it in parts"
            )

    def check_count(self, count: int) -> None:
        """Refuses a number of maps or images in one request that is over the limit.

        Raises:
            RequestLimitError: There are too many.
        """
        if count > self.maps:
            raise RequestLimitError(f"the request holds {count} maps, expected at most {self.maps}; send it in parts")
