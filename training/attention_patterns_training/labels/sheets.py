"""Pictures of maps as annotators see them, one by one and on contact sheets."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attention_patterns_training.labels.dataset import LabelledMaps, segment_lengths

SHEET = (1200, 870)  # pixels, width and height: what a screen shows unscaled
CAPTION = 22  # pixels above a map


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
