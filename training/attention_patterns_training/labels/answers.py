"""The file of an annotator's answers: columns map_id, pattern, second, to which each answer is appended at once.

The last line of a map counts; an empty pattern takes its answer back.
"""

import csv
import fcntl
import io
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import typer

from attention_patterns.patterns import PATTERN_NAMES

HEADER = ("map_id", "pattern", "second")
_NAMES = PATTERN_NAMES.tolist()


@dataclass(frozen=True)
class Answer:
    """A pattern and a second choice, either of which may be empty."""

    pattern: str
    second: str

    def fault(self) -> str:
        """Returns the reason why the answer is refused, or "" where there is none."""
        if self.pattern not in {"", *_NAMES}:
            return f"pattern {self.pattern!r}, expected one of {', '.join(_NAMES)}, or nothing"
        if self.second and (self.second not in _NAMES or self.second == self.pattern or not self.pattern):
            beside = f"second choice {self.second!r} beside pattern {self.pattern!r}"
            return f"{beside}, expected another pattern or nothing"
        return ""


class AnswerFile:
    """One annotator's answers in a file, which is locked as long as this process lives.

    Attributes:
        path: Path of the file.
        answers: map_id -> answer, in the order in which they were given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.answers: dict[str, Answer] = {}
        self._saving = Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{path} is open in another server of this annotator; use that one, or end it"
            raise typer.BadParameter(message) from None
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1  # a crash cut off the line behind it
        self._read(content[:whole].decode(errors="replace"))
        os.ftruncate(self._file, whole)
        if not whole:
            self._append(HEADER)

    def save(self, map_id: str, answer: Answer) -> None:
        """Writes an answer, and returns when it is on the disk.

        Raises:
            OSError: It cannot be written.
        """
        with self._saving:
            self._append((map_id, answer.pattern, answer.second))
            self._note(map_id, answer)

    def _read(self, text: str) -> None:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
            if number == 1 and tuple(cells) == HEADER:
                continue
            wrong_count = len(cells) != len(HEADER)
            fault = f"{len(cells)} cells, expected {len(HEADER)}" if wrong_count else Answer(*cells[1:]).fault()
            if number == 1:
                fault = fault or f"expected the header {','.join(HEADER)}"
            if fault:
                raise typer.BadParameter(f"{self.path}, line {number}: {fault}")
            self._note(cells[0], Answer(*cells[1:]))

    def _note(self, map_id: str, answer: Answer) -> None:
        self.answers.pop(map_id, None)
        if answer.pattern:
            self.answers[map_id] = answer

    def _append(self, cells: tuple[str, ...]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        line, before = text.getvalue().encode(), os.fstat(self._file)
        if not os.path.samestat(before, self.path.stat()):
            raise OSError("another file stands in its place; restart the server")
        try:
            if os.write(self._file, line) < len(line):
                raise OSError("no space left for a whole line")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, before.st_size)  # a later answer must not follow half a line
            raise
