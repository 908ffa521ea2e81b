"""Labels by hand: draws contact sheets, collects the answers of two blind annotators and of the third look.

    python -m training.hand_labels sheets SHEETS --annotator a     # sheet images, and key.csv saying what is where
    python -m training.hand_labels collect SHEETS --annotator a    # SHEETS/answers.csv into labels.csv
    python -m training.hand_labels sheets THIRD --annotator third  # only the maps on which a and b differ
    python -m training.hand_labels collect THIRD --annotator third
    python -m training.hand_labels agreement                       # Cohen's kappa, and F1 of one against the other

``answers.csv`` has the columns sheet, position, pattern, second, with the codes V, D, VD, B, H; second may be empty.
The order of the maps on the sheets is drawn anew for every annotator. A sheet tells nothing of a map but its length,
its segments, whether it is causal, and in a small square the faintest grey that counts as visible, 2.5 / L.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich import print as show
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

from classifier.patterns import PATTERN_NAMES
from training.dataset import DATA, LabelledMaps, read_dataset, read_labels, segment_lengths, write_labels

SHEET = (1200, 870)  # pixels, width and height: what a screen shows unscaled
CAPTION = 22  # pixels above a map
CODES = dict(zip(("V", "D", "VD", "B", "H"), PATTERN_NAMES.tolist(), strict=True))
app = typer.Typer(help=__doc__, no_args_is_help=True)


class Annotator(StrEnum):
    """Whose answers: the two blind passes, and the third look at the maps on which they differ."""

    A = "a"
    B = "b"
    THIRD = "third"


def cell_pixels(length: int) -> int:
    """Pixels a matrix entry is wide: at least 4 up to 128 tokens and 2 beyond, as the annotation guide asks."""
    return max(4 if length <= 128 else 2, 236 // length)


def draw_map(attention: NDArray[np.floating], segments: list[int], *, aid: bool = False) -> Image.Image:
    """One map with flat cells, white = 0, black = the map's maximum, red ticks outside where a segment begins.

    With ``aid`` a second panel stands beside it: the same cells, those under 2.5 / L left white and the others no
    fainter than a light grey, which shows what the guide counts as visible.
    """
    length = len(attention)
    shade = np.asarray(attention / attention.max(), np.float64)
    panels = [shade, np.where(attention >= 2.5 / length, 0.15 + 0.85 * shade, 0.0)] if aid else [shade]
    size = length * cell_pixels(length)
    picture = Image.new("RGB", (len(panels) * (size + 14) - 2, size + 12), "white")
    draw = ImageDraw.Draw(picture)
    for n, panel in enumerate(panels):
        left = n * (size + 14)
        grey = Image.fromarray(255 - np.round(255.0 * panel).astype(np.uint8))
        picture.paste(grey.resize((size, size), Image.Resampling.NEAREST), (left + 11, 11))
        draw.rectangle((left + 10, 10, left + size + 11, size + 11), outline=(150, 170, 200))
        for start in np.cumsum(segments)[:-1]:
            tick = 11 + int(start) * cell_pixels(length)
            draw.line((left + tick, 0, left + tick, 9), fill="red", width=2)
            draw.line((left, tick, left + 9, tick), fill="red", width=2)
    return picture


def draw_sheets(data: LabelledMaps, rows: list[int], folder: Path) -> pd.DataFrame:
    """Writes the maps of ``rows`` to contact sheets, short maps first; returns the key: sheet, position, map_id."""
    folder.mkdir(parents=True, exist_ok=True)
    key: list[tuple[int, int, str]] = []
    waiting = sorted(rows, key=lambda row: len(data.maps[row]) // 32)  # stable: random within a band of lengths
    sheet = 0
    while waiting:
        pictures: list[tuple[Image.Image, int]] = []
        for row in waiting:  # as many as fit into equal panels
            info = data.table.iloc[row]
            picture = draw_map(data.maps[row].astype(np.float32), segment_lengths(info["segments"]))
            side = max([p.width for p, _ in pictures] + [picture.width]) + 14
            columns, lines = max(1, SHEET[0] // side), max(1, SHEET[1] // (side + CAPTION))
            if pictures and len(pictures) + 1 > min(columns * lines, 12):
                break
            pictures.append((picture, row))
        sheet += 1
        side = max(p.width for p, _ in pictures) + 14
        columns = max(1, SHEET[0] // side)
        image = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * (side + CAPTION)), "white")
        draw = ImageDraw.Draw(image)
        for position, (picture, row) in enumerate(pictures, start=1):
            info = data.table.iloc[row]
            x, y = (position - 1) % columns * side, (position - 1) // columns * (side + CAPTION)
            draw.text((x + 11, y), f"[{position}] L={info['length']}", fill="black", font_size=16)
            note = ("causal " if info["direction"] == "causal" else "") + f"segments {info['segments']}"
            draw.text((x + 120, y + 4), note, fill="black", font_size=11)
            faintest = 255 - round(255 * min(1.0, 2.5 / len(data.maps[row]) / float(data.maps[row].max())))
            draw.rectangle((x + 95, y + 4, x + 110, y + 17), fill=(faintest,) * 3, outline=(150, 170, 200))
            image.paste(picture, (x, y + CAPTION))
            key.append((sheet, position, str(info["map_id"])))
        image.save(folder / f"sheet-{sheet:03}.png")
        waiting = waiting[len(pictures) :]
    table = pd.DataFrame(key, columns=["sheet", "position", "map_id"])
    table.to_csv(folder / "key.csv", index=False)
    return table


def disputed(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Where both annotators answered and differ."""
    a, b = table["annotator_a"].to_numpy(), table["annotator_b"].to_numpy()
    return np.asarray((a != "") & (b != "") & (a != b))


def read_answers(folder: Path) -> pd.DataFrame:
    """The answers of a folder of sheets with full class names, every map of the key answered exactly once."""
    key = pd.read_csv(folder / "key.csv")
    answers = pd.read_csv(folder / "answers.csv", keep_default_na=False)
    merged = key.merge(answers, on=["sheet", "position"], how="outer", indicator=True, validate="one_to_one")
    for side, complaint in (("left_only", "no answer"), ("right_only", "an answer, but no map")):
        for row in merged[merged["_merge"] == side].itertuples():
            raise typer.BadParameter(f"{folder}: sheet {row.sheet}, position {row.position}: {complaint}")
    for row in merged.itertuples():
        if row.pattern not in CODES or row.second not in {"", *CODES}:
            raise typer.BadParameter(
                f"{folder}: sheet {row.sheet}, position {row.position}: {row.pattern!r}, {row.second!r}, "
                f"expected {', '.join(CODES)}, the second choice or nothing"
            )
    return merged.assign(pattern=merged["pattern"].map(CODES), second=merged["second"].map({"": ""} | CODES))


@app.command()
def sheets(
    sheet_folder: Annotated[Path, typer.Argument(help="where the sheets are written")],
    *,
    annotator: Annotated[Annotator, typer.Option(help="for whom")],
    folder: Annotated[Path, typer.Option(help="the data set")] = DATA,
) -> None:
    """Draws contact sheets of the maps that this annotator has not answered; for the third look, of those disputed."""
    data = read_dataset(folder)
    third = annotator is Annotator.THIRD
    open_rows = data.table["pattern" if third else f"annotator_{annotator}"] == ""
    rows = np.flatnonzero(open_rows & disputed(data.table) if third else open_rows)
    order = np.random.default_rng(list(annotator.encode())).permutation(rows)
    key = draw_sheets(data, order.tolist(), sheet_folder)
    show(f"{len(key)} maps on {key['sheet'].max()} sheets in {sheet_folder}")


@app.command()
def collect(
    sheet_folder: Annotated[Path, typer.Argument(help="a folder with key.csv and answers.csv")],
    *,
    annotator: Annotated[Annotator, typer.Option(help="whose answers")],
    folder: Annotated[Path, typer.Option(help="the data set")] = DATA,
) -> None:
    """Writes answers into labels.csv; a map gets its pattern when both agree, or from the third look."""
    answers = read_answers(sheet_folder).set_index("map_id")
    table = read_labels(folder).set_index("map_id", drop=False)
    if annotator is Annotator.THIRD:
        table.loc[answers.index, ["pattern", "second"]] = answers[["pattern", "second"]]
    else:
        columns = [f"annotator_{annotator}", f"annotator_{annotator}_second"]
        table.loc[answers.index, columns] = answers[["pattern", "second"]].to_numpy()
        agreed = (table["annotator_a"] != "") & (table["annotator_a"] == table["annotator_b"])
        seconds = table["annotator_a_second"].where(table["annotator_a_second"] != "", table["annotator_b_second"])
        table.loc[agreed, "pattern"] = table.loc[agreed, "annotator_a"]
        table.loc[agreed, "second"] = seconds[agreed]
    write_labels(table, folder)
    show(f"{len(answers)} answers collected; {(table['pattern'] == '').sum()} maps have no label yet")


@app.command()
def agreement(folder: Annotated[Path, typer.Option(help="the data set")] = DATA) -> None:
    """Prints how well the two annotators agree."""
    table = read_labels(folder)
    a, b = table["annotator_a"], table["annotator_b"]
    sure = (table["annotator_a_second"] == "") & (table["annotator_b_second"] == "")
    names = PATTERN_NAMES.tolist()
    show(f"{len(table)} maps, {int((a != b).sum())} disputed")
    show(f"Cohen's kappa {cohen_kappa_score(a, b):.3f}")
    if sure.any():
        show(
            f"Cohen's kappa {cohen_kappa_score(a[sure], b[sure]):.3f} on the {sure.sum()} maps without a second choice"
        )
    show(f"macro-F1 of one against the other {f1_score(a, b, labels=names, average='macro', zero_division=0):.3f}")
    show(pd.DataFrame(confusion_matrix(a, b, labels=names), index=names, columns=names))


if __name__ == "__main__":
    app()
