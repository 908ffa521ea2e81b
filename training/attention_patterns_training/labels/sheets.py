"""Pictures of maps as annotators see them, one by one and on contact sheets."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attention_patterns_training.labels.dataset import LabelledMaps, segment_lengths

SHEET = (1200, 870)  # pixels, width and height: a screen shows it unscaled
MOST = 12  # maps on a sheet
CAPTION = 22  # pixels above a map
GAP = 14  # pixels beside a map
FRAME = (150, 170, 200)
VISIBLE = 2.5  # times the even weight 1 / L


def cell_pixels(length: int) -> int:
    """Returns the width of a matrix entry in pixels: at least 4 up to 128 tokens and 2 beyond, as the guide asks."""
    return max(4 if length <= 128 else 2, 236 // length)


def draw_map(attention: NDArray[np.floating], segments: list[int], *, aid: bool = False) -> Image.Image:
    """Draws one map with flat cells, white = 0, black = the map's maximum, red ticks outside where a segment begins.

    With ``aid`` a second panel stands beside it: the same cells, those under 2.5 / L left white and the others no
    fainter than a light grey, which shows the cells that the guide counts as visible.
    """
    length = len(attention)
    shade = np.asarray(attention / attention.max(), np.float64)
    panels = [shade, np.where(attention >= VISIBLE / length, 0.15 + 0.85 * shade, 0.0)] if aid else [shade]
    size = length * cell_pixels(length)
    picture = Image.new("RGB", (len(panels) * (size + GAP) - 2, size + 12), "white")
    draw = ImageDraw.Draw(picture)
    for n, panel in enumerate(panels):
        left = n * (size + GAP)
        grey = Image.fromarray(255 - np.round(255.0 * panel).astype(np.uint8))
        picture.paste(grey.resize((size, size), Image.Resampling.NEAREST), (left + 11, 11))
        draw.rectangle((left + 10, 10, left + size + 11, size + 11), outline=FRAME)
        for start in np.cumsum(segments)[:-1]:
            tick = 11 + int(start) * cell_pixels(length)
            draw.line((left + tick, 0, left + tick, 9), fill="red", width=2)
            draw.line((left, tick, left + 9, tick), fill="red", width=2)
    return picture


def draw_sheets(data: LabelledMaps, rows: list[int], folder: Path) -> pd.DataFrame:
    """Writes the maps of ``rows`` to contact sheets, short maps first; returns the key: sheet, position, map_id."""
    folder.mkdir(parents=True, exist_ok=True)
    key: list[tuple[int, int, str]] = []
    remaining = sorted(rows, key=lambda row: len(data.maps[row]) // 32)  # stable: random within a band of lengths
    sheet = 0
    while remaining:
        sheet += 1
        pictures = _draw_maps_of_a_sheet(data, remaining)
        on_sheet, remaining = remaining[: len(pictures)], remaining[len(pictures) :]
        _lay_out(data, on_sheet, pictures).save(folder / f"sheet-{sheet:03}.png")
        key += [(sheet, position, str(data.table["map_id"].iloc[row])) for position, row in enumerate(on_sheet, 1)]
    table = pd.DataFrame(key, columns=["sheet", "position", "map_id"])
    table.to_csv(folder / "key.csv", index=False)
    return table


def _draw_maps_of_a_sheet(data: LabelledMaps, rows: list[int]) -> list[Image.Image]:
    """Draws the first of the maps, as many as fit on a sheet in panels of equal size."""
    pictures: list[Image.Image] = []
    for row in rows:
        segments = segment_lengths(data.table["segments"].iloc[row])
        picture = draw_map(data.maps[row].astype(np.float32), segments)
        side = max(other.width for other in [*pictures, picture]) + GAP
        columns, lines = max(1, SHEET[0] // side), max(1, SHEET[1] // (side + CAPTION))
        if pictures and len(pictures) + 1 > min(columns * lines, MOST):
            break
        pictures.append(picture)
    return pictures


def _lay_out(data: LabelledMaps, rows: list[int], pictures: list[Image.Image]) -> Image.Image:
    """Returns the sheet: each picture below its position, length, faintest visible grey, direction and segments."""
    side = max(picture.width for picture in pictures) + GAP
    columns = max(1, SHEET[0] // side)
    image = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * (side + CAPTION)), "white")
    draw = ImageDraw.Draw(image)
    for n, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        facts, attention = data.table.iloc[row], data.maps[row]
        x, y = n % columns * side, n // columns * (side + CAPTION)
        draw.text((x + 11, y), f"[{n + 1}] L={facts['length']}", fill="black", font_size=16)
        note = ("causal " if facts["direction"] == "causal" else "") + f"segments {facts['segments']}"
        draw.text((x + 120, y + 4), note, fill="black", font_size=11)
        faintest = 255 - round(255 * min(1.0, VISIBLE / len(attention) / float(attention.max())))
        draw.rectangle((x + 95, y + 4, x + 110, y + 17), fill=(faintest,) * 3, outline=FRAME)
        image.paste(picture, (x, y + CAPTION))
    return image
