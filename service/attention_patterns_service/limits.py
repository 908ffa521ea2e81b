"""The limits of a server, and the checks of a request against them."""

from dataclasses import dataclass

from attention_patterns.attention_map import AttentionMaps, Declaration
from attention_patterns.errors import RequestLimitError

MIB = 1 << 20
_MEASURES_BYTES = 32  # of a token group's measures in the answer to a map, besides its name
_MOST_MEASURES_BYTES = 16 * MIB  # per answer: some 25 groups for each of the most maps


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
    """

    message_bytes: int = 72 * MIB
    maps: int = 16_384
    length: int = 8192
    calls: int = 32
    bytes: int = 512 * MIB
    seconds: float = 60.0
    idle_seconds: float = 300.0

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

    def check_answer(self, maps: AttentionMaps, declaration: Declaration) -> None:
        """Refuses maps whose answer would be too large: per map it holds the name and measures of each token group.

        Raises:
            RequestLimitError: The answer would be too large.
        """
        size = len(maps.values) * sum(_MEASURES_BYTES + len(group.name.encode()) for group in declaration.groups)
        if size > _MOST_MEASURES_BYTES:
            raise RequestLimitError(
                f"{len(maps.values)} maps measured for {len(declaration.groups)} token groups make an answer of {size} "
                f"bytes, expected at most {_MOST_MEASURES_BYTES}; send it in parts",
                name="answer_bytes",
                limit=_MOST_MEASURES_BYTES,
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
