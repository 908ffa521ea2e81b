"""The limits of a server, and the checks of a request against them."""

from dataclasses import dataclass

from attention_patterns.attention_map import AttentionMaps
from attention_patterns.errors import RequestLimitError

MIB = 1 << 20
HEALTH_CALLS = 8  # calls of health that may be receiving a message


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
            raise RequestLimitError(f"attention is of {maps.length} tokens, expected at most {self.length}")

    def check_declarations(self, **counts: int) -> None:
        """Refuses declarations that are longer than those of any map; ``counts`` are their lengths, by name.

        Raises:
            RequestLimitError: A declaration is too long.
        """
        most = {"token_groups": self.groups, "groups": self.groups, "layers": self.maps, "heads": self.maps}
        for name, count in counts.items():
            if count > most.get(name, self.length):
                raise RequestLimitError(
                    f"the request holds {count} {name}, expected at most {most.get(name, self.length)}"
                )

    def check_answer(self, size: int) -> None:
        """Refuses a request whose answer would be too large, ``size`` bytes.

        Raises:
            RequestLimitError: The answer would be too large.
        """
        if size > self.answer_bytes:
            raise RequestLimitError(
                f"the answer would have {size} bytes, expected at most {self.answer_bytes}; send fewer maps or token "
                "groups in a request"
            )

    def check_count(self, count: int) -> None:
        """Refuses a number of maps or images in one request that is over the limit.

        Raises:
            RequestLimitError: There are too many.
        """
        if count > self.maps:
            raise RequestLimitError(f"the request holds {count} maps, expected at most {self.maps}; send it in parts")
