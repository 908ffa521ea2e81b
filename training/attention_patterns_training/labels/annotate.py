"""A local page on which attention maps are labelled by key press.

Its folder holds ``maps.npz`` and ``labels.csv``. A ``labels.csv`` that is missing is made from the maps; one that has
only some columns, such as map_id and segments, is completed. Answers are saved to ``answers-<annotator>.csv`` in that
folder (``answers``), and the command ``collect`` writes them into ``labels.csv``.
"""

import io
import logging
import re
import shlex
import signal
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer
from flask import Flask, Response, abort, render_template, request
from numpy.typing import NDArray
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

from attention_patterns.attention_map import SHORTEST_LABELLED, read_attention, read_declaration
from attention_patterns.errors import InvalidAttentionError, ShapeError
from attention_patterns.programs.foreign_text import visible
from attention_patterns.programs.terminal import SafeConsole
from attention_patterns.rendering import find_causal, render
from attention_patterns_training.labels.annotators import Annotator, is_waiting
from attention_patterns_training.labels.answers import HEADER, Answer, AnswerFile
from attention_patterns_training.labels.dataset import CODES, COLUMNS, LabelledMaps, segment_lengths, write_labels
from attention_patterns_training.labels.sheets import draw_map

TEMPLATES = Path(__file__).parents[1] / "templates"
PATTERNS = [  # as the page shows them: keys are the number, or the letter
    {"name": name, "code": code, "key": "C" if code == "VD" else code} for code, name in CODES.items()
]


@dataclass(frozen=True)
class ShownMap:
    """A map to be labelled, with all that its annotator learns of it.

    Attributes:
        map_id: Name in the data set; not shown, since it may give away where the map comes from.
        attention: Attention map [L, L].
        direction: "bidirectional" or "causal".
        segments: Lengths, L in all.
    """

    map_id: str
    attention: NDArray[Any]
    direction: str
    segments: list[int]

    @classmethod
    def of_row(cls, attention: NDArray[Any], row: "pd.Series[str]") -> "ShownMap":
        """Returns the map of a row of ``labels.csv``.

        Raises:
            typer.BadParameter: The segments of the row are not those of the map.
        """
        cell, length = row["segments"] or str(len(attention)), len(attention)
        if not re.fullmatch(r"[1-9]\d*(\+[1-9]\d*)*", cell) or sum(segment_lengths(cell)) != length:
            fault = f"labels.csv: map {row['map_id']!r} has segments {cell!r}"
            raise typer.BadParameter(f"{fault}, expected lengths such as 12+9, {length} in all")
        return cls(row["map_id"], attention, row["direction"], segment_lengths(cell))


def _read_maps(path: Path) -> dict[str, NDArray[Any]]:
    """Reads the matrices by map_id, and checks that each is an attention map [L, L] as the library takes it."""
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


def _read_table(path: Path, maps: dict[str, NDArray[Any]]) -> pd.DataFrame:
    """Reads ``labels.csv``, or makes a table of the maps that are long enough; each of its maps is in the folder."""
    if path.exists():
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    else:
        names = [name for name, attention in maps.items() if len(attention) >= SHORTEST_LABELLED]
        table = pd.DataFrame({"map_id": names})
    if "map_id" not in table or not set(table.columns) <= set(COLUMNS):
        raise typer.BadParameter(f"{path}: columns {list(table)}, expected map_id and others of {list(COLUMNS)}")
    for map_id in table["map_id"][table["map_id"].duplicated()]:
        raise typer.BadParameter(f"{path}: map {map_id!r} has two rows, expected one")
    for map_id in table["map_id"][~table["map_id"].isin(list(maps))]:
        raise typer.BadParameter(f"{path}: map {map_id!r} is not in {path.parent / 'maps.npz'}")
    return table


def _find_direction(attention: NDArray[Any]) -> str:
    maps = read_attention(attention, None)
    return "causal" if find_causal(maps, read_declaration(maps.length))[0] else "bidirectional"


def begin_labels(folder: Path) -> LabelledMaps:
    """Reads a data set whose ``labels.csv`` is made of its maps if it is missing, and completed if columns are.

    Where a column is missing, each map is one segment and a text of its own, and causal if the library takes it for
    causal; every fifth goes to validation, the others to training. A new table leaves out maps of fewer than 8 tokens,
    as the annotation guide does. All cells of the table are strings.
    """
    maps = _read_maps(folder / "maps.npz")
    table = _read_table(folder / "labels.csv", maps)
    chosen = tuple(maps[map_id] for map_id in table["map_id"])
    lengths = [str(len(attention)) for attention in chosen]
    defaults: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {
        "source": folder.resolve().name,
        "text_id": table["map_id"],
        "layer": "0",
        "head": "0",
        "length": lengths,
        "direction": [_find_direction(attention) for attention in chosen],
        "segments": lengths,
        "split": ["validation" if n % 5 == 4 else "train" for n in range(len(chosen))],
        "round": "1",
    }
    missing = {column: defaults[column] for column in COLUMNS if column not in table}
    if missing:
        table = table.assign(**missing)
        write_labels(table, folder)
    return LabelledMaps(chosen, table)


def maps_to_label(data: LabelledMaps, annotator: Annotator, answers: dict[str, Answer]) -> list[ShownMap]:
    """Returns the maps for which ``labels.csv`` or the file holds no answer yet, and those of the file.

    They come in an order of the annotator's own; in the third look only those on which the others differ.
    """
    shown = is_waiting(data.table, annotator, revisable=answers).to_numpy()
    order = np.random.default_rng(list(annotator.encode())).permutation(len(shown))
    return [ShownMap.of_row(data.maps[n], data.table.iloc[n]) for n in order if shown[n]]


def _page_state(maps: list[ShownMap], file: AnswerFile, version: int) -> dict[str, Any]:
    """Returns what the page's script works on; ``version`` is part of the pictures' addresses."""
    answers = dict(file.answers)
    states = []
    for shown in maps:
        answer = answers.get(shown.map_id, Answer("", ""))
        facts = {"map_id": shown.map_id, "direction": shown.direction, "segments": shown.segments}
        states.append(facts | {"length": len(shown.attention), "pattern": answer.pattern, "second": answer.second})
    return {
        "maps": states,
        "answered": list(answers),
        "patterns": PATTERNS,
        "file": str(file.path),
        "version": version,
    }


def create_app(maps: list[ShownMap], file: AnswerFile, *, annotator: Annotator, collect: str) -> Flask:
    """Creates the page, its pictures, and the address to which it posts answers.

    Args:
        maps: Maps to be labelled.
        file: File of the answers.
        annotator: Who labels.
        collect: Command that the page shows when all maps are labelled.
    """
    app = Flask(__name__, static_folder=None, template_folder=TEMPLATES)
    app.config.update(TRUSTED_HOSTS=["127.0.0.1", "localhost"], MAX_CONTENT_LENGTH=10_000)
    version = time.time_ns()  # a browser keeps the pictures as long as this server lives
    by_id, command = {shown.map_id: shown for shown in maps}, visible(collect)

    @app.get("/")
    def page() -> str:
        state = _page_state(maps, file, version)
        return render_template("annotate.html", state=state, patterns=PATTERNS, annotator=annotator, collect=command)

    @app.get("/picture")
    def picture() -> Response:
        shown = by_id.get(request.args["map_id"]) or abort(404, "no such map")
        drawn = draw_map(shown.attention.astype(np.float32), shown.segments, aid="aid" in request.args)
        png = io.BytesIO()
        drawn.save(png, "png")
        return Response(png.getvalue(), mimetype="image/png", headers={"Cache-Control": "max-age=86400"})

    @app.post("/answers")
    def save() -> dict[str, str]:
        posted = request.get_json()  # refuses other content types, which another web site could send
        cells: list[Any] = [posted.get(name) for name in ("file", *HEADER)] if isinstance(posted, dict) else [None]
        if not all(isinstance(cell, str) for cell in cells):
            abort(400, f"expected the strings file, {', '.join(HEADER)}")
        page_file, map_id, answer = cells[0], cells[1], Answer(*cells[2:])
        if page_file != str(file.path):
            abort(409, f"this page belongs to {page_file}, and the server now fills {file.path}")
        if map_id not in by_id:
            abort(400, f"map {map_id!r} is not among those to be labelled")
        if fault := answer.fault():
            abort(400, fault)
        try:
            file.save(map_id, answer)
        except OSError as error:
            abort(500, f"{file.path}: {error.strerror or error}")
        return {}

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> tuple[dict[str, str], int]:
        return {"error": visible(error.description)}, error.code or 500

    return app


def annotate(folder: Path, *, annotator: Annotator, port: int) -> None:
    """Serves the page on 127.0.0.1 until Ctrl-C or SIGTERM; port 0 takes a free one."""
    console = SafeConsole(soft_wrap=True)
    data = begin_labels(folder)
    file = AnswerFile(folder / f"answers-{annotator}.csv")
    maps = maps_to_label(data, annotator, file.answers)
    if not maps:
        raise typer.BadParameter(f"{folder} holds no map that waits for an answer of annotator {annotator}")
    words = ["collect", str(folder / file.path.name), "--annotator", annotator, "--folder", str(folder)]
    collect = f"python -m attention_patterns_training {shlex.join(words)}"
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for every picture
    app = create_app(maps, file, annotator=annotator, collect=collect)
    server = make_server("127.0.0.1", port, app, threaded=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.print(f"{len(maps)} maps for annotator {annotator}, {len(file.answers)} of them labelled in {file.path}")
    console.print(f"http://127.0.0.1:{server.port}/  (Ctrl-C ends)")
    server.serve_forever()  # returns on KeyboardInterrupt
    console.print(f"{len(file.answers)} of {len(maps)} maps labelled; collect them with\n{collect}")
