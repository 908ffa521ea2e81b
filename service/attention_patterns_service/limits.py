"""The limits of a server, and the checks of a request against them."""

import resource
import sys
from dataclasses import dataclass, field, fields

from attention_patterns.attention_map import AttentionMaps
from attention_patterns.errors import InvalidSettingsError, RequestLimitError

MIB = 1 << 20
HEALTH_CALLS = 8  # calls of health that may be receiving a message
DAY = 86_400  # seconds, the most that any limit of time may have
OTHER_FILES = 64  # of a server besides its connections: libraries, logs, files that are read again, the metrics page
_MOST = {  # gRPC counts bytes in 32 bits
    "message_bytes": 2047 * MIB,
    "answer_bytes": 2047 * MIB,
    "seconds": DAY,
    "idle_seconds": DAY,
    "stream_seconds": DAY,
}
_MOST_CONNECTIONS = 4096


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
        groups: Most token groups in a request, special tokens included.
        answer_bytes: Largest answer given.
        calls: Most calls accepted and not yet answered; an open stream is one.
        token_calls: Most of these calls that callers with one access token may have.
        bytes: Most memory that all calls together take: half of it for messages received and answers not yet taken,
            half for the work on them, which is what they are decoded to, their images and their answers in the making.
        seconds: Longest time that a request may take, where its own deadline is not earlier.
        idle_seconds: Longest time between two good requests of an open stream.
        stream_seconds: Longest time that a stream may stay open.
        connections: Most connections at a time; by default as many as the limit of open files leaves room for.

    Raises:
        InvalidSettingsError: A value makes no sense, or two of them do not fit together.
    """

    message_bytes: int = 72 * MIB
    maps: int = 16_384
    length: int = 8192
    groups: int = 1024
    answer_bytes: int = 8 * MIB
    calls: int = 32
    token_calls: int = 16
    bytes: int = 768 * MIB
    seconds: float = 60.0
    idle_seconds: float = 300.0
    stream_seconds: float = 3600.0
    connections: int = field(default_factory=connections_by_open_files)

    def __post_init__(self) -> None:
        for limit in fields(self):
            check_range(f"limit '{limit.name}'", getattr(self, limit.name), most=_MOST.get(limit.name, sys.maxsize))
        if self.bytes < 2 * self.message_bytes:
            raise InvalidSettingsError(
                f"limit 'bytes' is {self.bytes:,}, expected room in its half for the largest message, 'message_bytes', "
                f"of {self.message_bytes:,}"
            )

    @property
    def memory(self) -> int:
        """Most memory that all calls take, bytes.

        Beside what counts, each call may be receiving a message, and its answer is not refused once it is made.
        """
        return self.bytes + self.calls * (self.message_bytes + self.answer_bytes) + HEALTH_CALLS * self.message_bytes

    def check(self, maps: AttentionMaps) -> None:
        """Refuses maps over the limits.

        Raises:
            RequestLimitError: There are too many maps, or they are too long.
        """
        self.check_count(len(maps.values))
        if maps.length > self.length:
            raise RequestLimitError(
                f"attention is of {maps.length} tokens, expected at most {self.length}",
                name="length",
                limit=self.length,
            )

    def check_declarations(self, **counts: int) -> None:
        """Refuses declarations that are longer than those of any map; ``counts`` are their lengths, by name.

        Raises:
            RequestLimitError: A declaration is too long.
        """
        limit_of = {"token_groups": "groups", "groups": "groups", "layers": "maps", "heads": "maps"}
        for name, count in counts.items():
            limit = limit_of.get(name, "length")
            if count > (most := getattr(self, limit)):
                raise RequestLimitError(
                    f"the request holds {count} {name}, expected at most {most}", name=limit, limit=most
                )

    def check_answer(self, size: int) -> None:
        """Refuses a request whose answer would be too large, ``size`` bytes.

        Raises:
            RequestLimitError: The answer would be too large.
        """
        if size > self.answer_bytes:
            raise RequestLimitError(
                f"the answer would have {size} bytes, expected at most {self.answer_bytes}; send fewer maps or token "
                "groups in a request",
                name="answer_bytes",
                limit=self.answer_bytes,
            )

    def check_count(self, count: int) -> None:
        """Refuses a number of maps or images in one request that is over the limit.

        Raises:
            RequestLimitError: There are too many.
        """
        if count > self.maps:
            raise RequestLimitError(
                f"the request holds {count} maps, expected at most {self.maps}; send it in parts",
                name="maps",
                limit=self.maps,
            )
