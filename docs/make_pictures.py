"""Makes the picture of the README, docs/report.png: ``.venv/bin/python docs/make_pictures.py``.

The bundled sample is labelled, its report is written and opened in a headless Chromium, one head is clicked, and the
part of the page with the grid and that head's map is kept.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

from attention_patterns.sample import SAMPLE

PICTURE = Path(__file__).with_name("report.png")
_HEAD = "layer 2, head 8"  # a sharp line crossed by stripes
_CELL = 0.392, 0.459  # row and column of the cell that is pointed at, as shares of the picture of the map
_WIDTH, _HEIGHT = 1240, 2000  # CSS pixels of the window; the page is cut to its first section
_MARGIN = 16  # CSS pixels around the cut
_SCALE = 1.5  # device pixels per CSS pixel
_SWITCHES = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars")


def main() -> None:
    """Labels the sample, and writes the picture of its report."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("no Chromium is installed, which draws the report; install the package chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        report = _report(Path(folder) / "sample")
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_SWITCHES))
        page = browser.new_page(
            viewport={"width": _WIDTH, "height": _HEIGHT}, device_scale_factor=_SCALE, color_scheme="light"
        )
        page.goto(report.as_uri())
        _photograph(page)
        browser.close()


def _report(run: Path) -> Path:
    """Returns the report page of a run over the bundled sample, made by the commands that the README shows."""
    command = str(Path(sys.executable).with_name("attention-label"))
    subprocess.run([command, "run", str(SAMPLE), "-o", str(run), "--quiet"], check=True)
    subprocess.run([command, "report", str(run)], check=True, stdout=subprocess.DEVNULL)
    return run / "report.html"


def _photograph(page: Page) -> None:
    """Clicks a head, points at a cell of its map, and keeps the grid with the upper half of the panel."""
    page.get_by_role("button", name="Maps", exact=True).click()
    page.locator("#grid canvas").last.wait_for()
    page.locator(f"#grid .cell[aria-label^='{_HEAD}' i]").click()
    attention_map = page.locator("#example svg")
    side = _box(attention_map).width
    attention_map.hover(position={"x": _CELL[1] * side, "y": _CELL[0] * side})
    page.locator("#example .read bdi").last.wait_for()
    top, bottom = _box(page.locator("#heads")).top - _MARGIN, _box(page.locator("#example .bars")).bottom + _MARGIN
    page.screenshot(path=PICTURE, clip={"x": 0, "y": top, "width": _WIDTH, "height": bottom - top})


@dataclass(frozen=True)
class _Box:
    """Place of an element in the page, CSS pixels."""

    top: float
    bottom: float
    width: float


def _box(element: Locator) -> _Box:
    box = element.bounding_box()
    assert box is not None, "an element of the page is not visible"
    return _Box(box["y"], box["y"] + box["height"], box["width"])


if __name__ == "__main__":
    main()
