"""Text that others wrote: spelt out where it would not be drawn, and bounded."""

import io
import json
import logging
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attention_patterns.programs.foreign_text import LONGEST, shorten, spell_out, visible
from attention_patterns.programs.json_logs import json_formatter
from attention_patterns.programs.terminal import SafeConsole, attention_table, pattern_grid, with_title

TEXTS = st.text(st.characters() | st.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp", "Mn")))
ACTING = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # control, format, surrogates, without a meaning, ends of lines
NASTY = "[bold]b[/] [/red] :smile: \x1b[31m \x9b2J \x07 \u202e \u200b \ufeff \u2066 \u3164 \U000e0041 \udcff \r\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [x] é 語 👍🏽 :smile:", "plain [x] é 語 👍🏽 :smile:"),
        ("\x1b[31m\x07\x7f\x9b", r"\x1b[31m\x07\x7f\x9b"),
        ("a\tb\r\n", r"a\tb\r\n"),
        ("\u202e\u200b\ufeff\u2066\u2028", r"\u202e\u200b\ufeff\u2066\u2028"),
        ("\u3164\u034f\u2800\U000e0041", r"\u3164\u034f\u2800\U000e0041"),
        ("\udcff", r"\udcff"),  # a byte of a path that is not UTF-8
        (ValueError("no\x00"), r"no\x00"),
    ],
)
def test_what_is_not_drawn_is_spelt_out(text, shown):
    assert visible(text) == shown


@given(TEXTS, st.integers(20, 60))
@example("\U000e0041" * 50, 20)
def test_whatever_is_shown_is_drawn_and_bounded(text, longest):
    shown = visible(text, longest=longest)
    assert len(shown) <= longest
    assert not {letter for letter in shown if unicodedata.category(letter) in ACTING}
    shown.encode()  # no lone surrogate is left
    assert visible(shown, longest=longest) == shown


@given(TEXTS)
def test_spelling_out_changes_nothing_that_is_drawn(text):
    drawn = "".join(letter for letter in text if letter == spell_out(letter))
    assert spell_out(drawn) == drawn
    assert spell_out(text) == "".join(map(spell_out, text))


@given(st.text(min_size=0, max_size=300), st.integers(10, 200))
def test_a_text_is_cut_in_its_middle(text, longest):
    short = shorten(text, longest)
    assert len(short) == min(len(text), longest)
    if len(text) > longest:
        head, tail = short.split(" … ")[0], short[-((longest - 3) // 3) :]
        assert text.startswith(head)
        assert text.endswith(tail)


def printed(renderable):
    console = SafeConsole()
    console.file, console.width = io.StringIO(), 400
    console.print(renderable)
    return console.file.getvalue()


@given(TEXTS)
@example(NASTY)
def test_a_console_prints_text_as_it_is_spelt_out(text):
    """No markup, no code of an emoji, nothing that acts: as a string, in a table, as a title, as a text of rich."""
    table = Table("name", box=None)
    table.add_row(text)
    for renderable in (text, table, Text(text), with_title(text, pattern_grid([["Block"]]))):
        shown = printed(renderable)
        assert not {letter for letter in shown if letter != "\n" and unicodedata.category(letter) in ACTING}
    lines = [spell_out(line) for line in text.split("\n")]
    if max(map(len, lines)) < 100:
        assert "".join(printed(text).split()) == "".join("".join(lines).split())


def test_a_table_of_groups_is_safe_on_any_console():
    console = Console(file=io.StringIO(), width=200)
    console.print(attention_table({NASTY: [[0.5]], "\x1b" * 9999: [[0.25]]}))
    shown = console.file.getvalue()
    assert r"[bold]b[/] [/red] :smile: " in shown
    assert "\x1b" not in shown


@given(TEXTS)
@example("\U000e0041" * 9999)
def test_a_line_of_the_log_is_one_line_of_ascii_that_is_bounded(text):
    record = logging.makeLogRecord({"msg": text, "args": (), "request_id": text})
    line = json_formatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 100_000
    if len(text) < LONGEST:
        assert json.loads(line)["request_id"] == text


def test_an_exception_is_logged_without_what_it_says():
    try:
        try:
            raise KeyError("a secret word")
        except KeyError as error:
            raise ValueError("another secret") from error
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "unforeseen error", "exc_info": (type(error), error, None)})
        record.exc_info = (type(error), error, error.__traceback__)
    logged = json.loads(json_formatter().format(record))["exc_info"]
    assert re.search(r"test_foreign_text\.py.*KeyError\n\n.*test_foreign_text\.py.*ValueError$", logged, re.DOTALL)
    assert "another secret" not in logged.replace('raise ValueError("another secret")', "")
