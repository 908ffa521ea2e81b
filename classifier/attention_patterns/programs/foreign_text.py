"""Text that others wrote, made safe for where it is shown: paths, tokens, names, ids, messages of errors.

A terminal acts upon control characters, marks of direction turn a line around, and characters of no width hide.
``visible`` spells all of these out, for terminals and pages; ``shorten`` only bounds a text, for
JSON, which escapes by itself.
"""

import os
import re
import sys
from pathlib import Path

LONGEST = 1000  # characters of a text that is shown
_GAP = " … "  # between the two ends of a text that is cut
# Nothing is drawn for these either, although Unicode counts them as letters and marks. (Selectors of a glyph's style,
# U+FE00 to U+FE0F, stay: they belong to emoji.)
_HIDDEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\U000e0000-\U000e0fff]")


def shorten(text: str, longest: int = LONGEST) -> str:
    """Returns a text of at most ``longest`` characters: the whole, or its two ends."""
    if len(text) <= longest:
        return text
    tail = (longest - len(_GAP)) // 3
    return f"{text[: longest - len(_GAP) - tail]}{_GAP}{text[len(text) - tail :]}"


def visible(text: object, *, longest: int = LONGEST) -> str:
    r"""Returns a text in which every character is drawn: control characters and the like as \x1b or \u202e.

    Args:
        text: Text, or anything that has one, such as an error or a path.
        longest: Most characters of the answer; a longer text is cut in the middle.
    """
    return shorten(spell_out(shorten(str(text), longest)), longest)


def spell_out(text: str) -> str:
    """Returns a text of any length with each character that is not drawn replaced by its number."""
    if text.isprintable() and not _HIDDEN.search(text):
        return text
    return "".join(
        letter if letter.isprintable() and not _HIDDEN.match(letter) else _number(ord(letter)) for letter in text
    )


def _number(code: int) -> str:
    short = {9: r"\t", 10: r"\n", 13: r"\r"}.get(code)
    return short or (f"\\x{code:02x}" if code < 1 << 8 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}")


def print_error(sentence: object) -> None:
    """Prints a sentence on standard error, as one line."""
    sys.stderr.write(f"{visible(sentence)}\n")
    sys.stderr.flush()


def print_path(path: Path) -> None:
    """Prints a path on standard output: its own bytes for a program that reads them, safe text for a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(f"{visible(path)}\n")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    sys.stdout.flush()
