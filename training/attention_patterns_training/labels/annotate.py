"""A local page to label attention maps by key press: ``python -m attention_patterns_training.labels.annotate FOLDER --annotator a``.

FOLDER holds ``maps.npz`` and ``labels.csv``. A ``labels.csv`` that is missing is made from the maps; one that has only
some columns, such as map_id and segments, is completed. Every answer is appended at once to
``FOLDER/answers-<annotator>.csv``, columns map_id, pattern, second: the last line of a map wins, an empty pattern takes
its answer back. ``python -m attention_patterns_training.labels.hand_labels collect`` writes them into ``labels.csv``.
"""

import csv
import fcntl
import io
import logging
import os
import re
import shlex
import signal
import time
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from flask import Flask, Response, abort, render_template, request
from numpy.typing import NDArray
from rich.console import Console
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

from attention_patterns.attention_map import SHORTEST_LABELLED, read_attention, read_declaration
from attention_patterns.errors import InvalidAttentionError, ShapeError
from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.rendering import find_causal, render
from attention_patterns_training.labels.dataset import (
    CODES,
    COLUMNS,
    Annotator,
    LabelledMaps,
    disputed,
    segment_lengths,
    write_labels,
)
from attention_patterns_training.labels.sheets import draw_map

HEADER = ("map_id", "pattern", "second")
NAMES = PATTERN_NAMES.tolist()
PATTERNS = [  # as the page shows them: keys are the number, or the letter
    {"name": name, "code": code, "key": "C" if code == "VD" else code} for code, name in CODES.items()
]


@dataclass(frozen=True)
class ShownMap:
    """A map to be labelled, and all that the annotator is told of it.

    Attributes:
        map_id: its name in the data set; not shown, since it may tell where the map comes from.
        attention: [L, L].
        direction: "bidirectional" or "causal".
        segments: lengths, L in all.
    """

    map_id: str
    attention: NDArray[Any]
    direction: str
    segments: list[int]


def _read_maps(path: Path) -> dict[str, NDArray[Any]]:
    """The matrices by map_id, every one of them an attention map [L, L] as the library takes it."""
    if not path.is_file():
        raise typer.BadParameter(f"{path.parent} holds no maps.npz, expected map_id -> attention map [L, L]")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            maps = {name: archive[name] for name in archive}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise typer.BadParameter(f"{path} cannot be read as an archive of matrices: {error}") from error
    for map_id, attention in maps.items():
        try:
            if attention.ndim != 2:
                raise ShapeError(f"attention has shape {list(attention.shape)}, expected [L, L]")
            render(attention, image_size=SHORTEST_LABELLED)
        except InvalidAttentionError as error:
            raise typer.BadParameter(f"{path}: map {map_id!r}: {error}") from error
    return maps


def _direction(attention: NDArray[Any]) -> str:
    maps = read_attention(attention, None)
    return "causal" if find_causal(maps, read_declaration(maps.length))[0] else "bidirectional"


def begin_labels(folder: Path) -> LabelledMaps:
    """Reads a data set whose ``labels.csv`` is made of its maps if it is missing, and completed if columns are.

    Unless a column says otherwise, a map is one segment and a text of its own, found causal or not as the library does;
    every fifth is dealt to validation, the others to train. Maps of fewer than 8 tokens are left out, as the
    annotation guide says. All cells of the table are strings.
    """
    path, maps = folder / "labels.csv", _read_maps(folder / "maps.npz")
    if path.exists():
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    else:
        table = pd.DataFrame({"map_id": [name for name, one in maps.items() if len(one) >= SHORTEST_LABELLED]})
    if "map_id" not in table or not set(table.columns) <= set(COLUMNS):
        raise typer.BadParameter(f"{path}: columns {list(table)}, expected map_id and others of {list(COLUMNS)}")
    for map_id in table["map_id"][table["map_id"].duplicated()]:
        raise typer.BadParameter(f"{path}: map {map_id!r} has two rows, expected one")
    for map_id in table["map_id"][~table["map_id"].isin(list(maps))]:
        raise typer.BadParameter(f"{path}: map {map_id!r} is not in {folder / 'maps.npz'}")
    chosen = tuple(maps[map_id] for map_id in table["map_id"])
    lengths = [str(len(one)) for one in chosen]
    made: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {
        "source": folder.resolve().name,
        "text_id": table["map_id"],
        "layer": "0",
        "head": "0",
        "length": lengths,
        "direction": [_direction(one) for one in chosen],
        "segments": lengths,
        "split": ["validation" if n % 5 == 4 else "train" for n in range(len(chosen))],
        "round": "1",
    }
    missing = {column: made[column] for column in COLUMNS if column not in table}
    if missing:
        table = table.assign(**missing)
        write_labels(table, folder)
    return LabelledMaps(chosen, table)


def maps_to_label(data: LabelledMaps, annotator: Annotator, given: Collection[str]) -> list[ShownMap]:
    """The maps that ``labels.csv`` has no answer of this annotator for, or ``given`` has, in the annotator's own order.

    For the third look those of them on which the other two differ.
    """
    third, table = annotator is Annotator.THIRD, data.table
    wanted = (table["pattern" if third else f"annotator_{annotator}"] == "") | table["map_id"].isin(list(given))
    rows = np.asarray(wanted & disputed(table) if third else wanted)
    order = np.random.default_rng(list(annotator.encode())).permutation(len(table))
    return [_shown(data.maps[row], table.iloc[row]) for row in order if rows[row]]


def _shown(attention: NDArray[Any], info: "pd.Series[str]") -> ShownMap:
    cell, length = info["segments"] or str(len(attention)), len(attention)
    if not re.fullmatch(r"[1-9]\d*(\+[1-9]\d*)*", cell) or sum(segment_lengths(cell)) != length:
        wrong = f"labels.csv: map {info['map_id']!r} has segments {cell!r}"
        raise typer.BadParameter(f"{wrong}, expected lengths such as 12+9, {length} in all")
    return ShownMap(info["map_id"], attention, info["direction"], segment_lengths(cell))


def complaint(pattern: str, second: str) -> str:
    """What is wrong with an answer, empty if nothing is; an empty pattern takes an answer back."""
    if pattern not in {"", *NAMES}:
        return f"pattern {pattern!r}, expected one of {', '.join(NAMES)}, or nothing"
    if second and (second not in NAMES or second == pattern or not pattern):
        return f"second choice {second!r} beside pattern {pattern!r}, expected another pattern or nothing"
    return ""


class Answers:
    """One annotator's answers in a file, which is locked as long as this process lives.

    Attributes:
        path: the file.
        given: map_id -> pattern and second choice, in the order in which they were given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.given: dict[str, tuple[str, str]] = {}
        self._saving = Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise typer.BadParameter(f"{path} is open in another server of this annotator; use or end that") from None
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1  # what stands behind it was being written in a crash
        text = io.StringIO(content[:whole].decode(errors="replace"), newline="")
        for number, line in enumerate(csv.reader(text), start=1):
            wrong = complaint(*line[1:]) if len(line) == len(HEADER) else f"{len(line)} cells, expected {len(HEADER)}"
            if wrong and (number > 1 or tuple(line) != HEADER):
                raise typer.BadParameter(f"{path}, line {number}: {wrong}")
            if number > 1:
                self._note(*line)
        os.ftruncate(self._file, whole)
        if not whole:
            self._append(HEADER)

    def save(self, map_id: str, pattern: str, second: str) -> None:
        """Returns when the answer is on the disk; raises OSError when it is not."""
        with self._saving:
            self._append((map_id, pattern, second))
            self._note(map_id, pattern, second)

    def _note(self, map_id: str, pattern: str, second: str) -> None:
        self.given.pop(map_id, None)
        if pattern:
            self.given[map_id] = (pattern, second)

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


def create_app(shown: list[ShownMap], answers: Answers, *, annotator: Annotator, collect: str) -> Flask:
    """The page, its pictures, and the door by which answers come in; ``collect`` is the command to run at the end."""
    app = Flask(__name__, static_folder=None)
    app.config.update(TRUSTED_HOSTS=["127.0.0.1", "localhost"], MAX_CONTENT_LENGTH=10_000)
    version = time.time_ns()  # pictures are kept by the browser as long as this server lives
    by_id, file = {one.map_id: one for one in shown}, str(answers.path)

    @app.get("/")
    def page() -> str:
        given = dict(answers.given)
        maps = []
        for one in shown:
            told = {"map_id": one.map_id, "direction": one.direction, "segments": one.segments}
            pattern, second = given.get(one.map_id, ("", ""))
            maps.append(told | {"length": len(one.attention), "pattern": pattern, "second": second})
        state = {"maps": maps, "given": list(given), "patterns": PATTERNS, "file": file, "version": version}
        return render_template("annotate.html", state=state, patterns=PATTERNS, annotator=annotator, collect=collect)

    @app.get("/picture")
    def picture() -> Response:
        one = by_id.get(request.args["map_id"]) or abort(404, "no such map")
        drawn, png = draw_map(one.attention.astype(np.float32), one.segments, aid="aid" in request.args), io.BytesIO()
        drawn.save(png, "png")
        return Response(png.getvalue(), mimetype="image/png", headers={"Cache-Control": "max-age=86400"})

    @app.post("/answers")
    def save() -> dict[str, str]:
        posted = request.get_json()  # refuses other content types, which another web site could send
        cells: list[Any] = [posted.get(name) for name in ("file", *HEADER)] if isinstance(posted, dict) else [None]
        if not all(isinstance(cell, str) for cell in cells):
            abort(400, f"expected the strings file, {', '.join(HEADER)}")
        page_file, map_id, pattern, second = cells
        if page_file != file:
            abort(409, f"this page belongs to {page_file}, and the server now fills {file}")
        if map_id not in by_id:
            abort(400, f"map {map_id!r} is not among those to be labelled")
        if wrong := complaint(pattern, second):
            abort(400, wrong)
        try:
            answers.save(map_id, pattern, second)
        except OSError as error:
            abort(500, f"{file}: {error.strerror or error}")
        return {}

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[dict[str, str | None], int]:
        return {"error": error.description}, error.code or 500

    return app


def main(
    folder: Annotated[Path, typer.Argument(help="the data set: maps.npz, and labels.csv if there is one")],
    *,
    annotator: Annotated[Annotator, typer.Option(help="who labels; third sees only where a and b differ")],
    port: Annotated[int, typer.Option(help="port on 127.0.0.1; 0 takes a free one", min=0, max=65535)] = 8350,
) -> None:
    """Serves a page on this machine to label attention maps by hand, until Ctrl-C or SIGTERM."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    data = begin_labels(folder)
    answers = Answers(folder / f"answers-{annotator}.csv")
    shown = maps_to_label(data, annotator, answers.given)
    if not shown:
        raise typer.BadParameter(f"{folder} holds no map that waits for an answer of annotator {annotator}")
    words = ["collect", str(folder / answers.path.name), "--annotator", annotator, "--folder", str(folder)]
    collect = f"python -m attention_patterns_training.labels.hand_labels {shlex.join(words)}"
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for every picture
    app = create_app(shown, answers, annotator=annotator, collect=collect)
    server = make_server("127.0.0.1", port, app, threaded=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.print(f"{len(shown)} maps for annotator {annotator}, {len(answers.given)} labelled, in {answers.path}")
    console.print(f"http://127.0.0.1:{server.port}/  (Ctrl-C ends)")
    server.serve_forever()  # returns on KeyboardInterrupt
    console.print(f"{len(answers.given)} of {len(shown)} maps labelled; collect them with\n{collect}")


if __name__ == "__main__":
    typer.run(main)
