"""The annotation page: a real server as a process, driven in headless Chromium, over maps of the data set."""

import json
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import typer
from playwright.sync_api import expect, sync_playwright

from attention_patterns import Pattern
from attention_patterns_training.labels.annotate import annotate, begin_labels
from attention_patterns_training.labels.annotators import Annotator
from attention_patterns_training.labels.answers import AnswerFile
from attention_patterns_training.labels.dataset import COLUMNS, read_labels, write_labels
from tests.helpers.drawn_maps import draw, random_maps

SWITCHES = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
SWITCHES += ("disable-component-update", "disable-sync")
COUNT = 6
PATIENCE = 120  # seconds for what takes parts of one: the machine may be busy


@dataclass(frozen=True)
class Running:
    """A server's process, and its address."""

    process: subprocess.Popen
    address: str


@contextmanager
def serving(folder, annotator="a", port=0):
    command = [sys.executable, "-P", "-m", "attention_patterns_training", "annotate", folder]
    command += ["--annotator", annotator, "--port", port]
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as process:
        try:
            printed = process.stdout.readline() + process.stdout.readline()
            yield Running(process, re.search(r"http://127\.0\.0\.1:\d+/", printed)[0])
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        pytest.skip("no Chromium is installed to drive the page in")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=[f"--{switch}" for switch in SWITCHES])
        yield running
        running.close()


@pytest.fixture
def page(browser):
    """A page; what goes wrong on it is in ``page.complaints``."""
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(1000 * PATIENCE)
    expect.set_options(timeout=1000 * PATIENCE)
    opened.complaints = []
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    yield opened
    opened.close()


@pytest.fixture
def folder(labelled, tmp_path):
    """A user's own folder: real maps, no labels.csv; numbers are fine as names."""
    short = [attention for attention in labelled.maps if len(attention) < 40][:COUNT]
    np.savez(tmp_path / "maps.npz", **{str(n): attention for n, attention in enumerate(short)})
    return tmp_path


def press(page, *keys):
    """Presses keys, each when the picture of the map it is meant for is on the page."""
    for key in keys:
        page.wait_for_function("view !== 'map' || (pictureAt === at && !saving)")
        page.keyboard.press(key)
    page.wait_for_function("!saving")


def lines(folder, annotator="a"):
    """The answers without their map_id: pattern, second."""
    return [line.split(",")[1:] for line in (folder / f"answers-{annotator}.csv").read_text().splitlines()[1:]]


def test_a_folder_is_labelled_by_keys_across_a_crash(folder, page):
    with serving(folder) as server:
        page.goto(server.address)
        assert read_labels(folder)["source"].unique().tolist() == [folder.name]
        with pytest.raises(typer.BadParameter, match="open in another server"):
            annotate(folder, annotator=Annotator.A, port=0)
        expect(page.locator("#name")).to_have_text(f"Map 1 of {COUNT}")
        press(page, "v", "Shift+D", "3", "Shift+2", "Shift+2", "h")
        assert lines(folder) == [["Vertical", ""], ["Vertical+Diagonal", "Diagonal"], ["Heterogeneous", ""]]
        press(page, "u", "Backspace")
        assert lines(folder)[3:] == [["", ""], ["", ""]]
        expect(page.locator("#done")).to_have_text(f"1 of {COUNT} labelled")
        expect(page.locator("#name")).to_have_text(f"Map 2 of {COUNT}")
        press(page, "b")  # one segment
        assert len(lines(folder)) == 5
        page.get_by_role("button", name=re.compile("^Diagonal D")).click()
        press(page, "ArrowLeft", "Shift+H")
        assert lines(folder)[5:] == [["Diagonal", ""], ["Diagonal", "Heterogeneous"]]
        server.process.kill()
    with (folder / "answers-a.csv").open("a") as file:
        file.write("4,Verti")
    order = page.evaluate("maps.map((map) => map.map_id)")
    with serving(folder) as server:
        page.goto(server.address)
        expect(page.locator("#done")).to_have_text(f"2 of {COUNT} labelled")
        expect(page.locator("#name")).to_have_text(f"Map 3 of {COUNT}")
        assert page.evaluate("maps.map((map) => map.map_id)") == order
        press(page, "s")
        small = page.locator("#grid button")
        expect(small.locator("b")).to_have_text(["V", "D / H", *["-"] * (COUNT - 2)])
        page.get_by_role("button", name="With second choice (1)").click()
        expect(small).to_have_count(1)
        assert small.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 100
        small.click()
        expect(page.locator("#name")).to_have_text(f"Map 2 of {COUNT}")
        press(page, "v", *"vdch")  # the first takes the place of a label, and the page goes on
        expect(page.locator("#end h2")).to_have_text(f"All {COUNT} maps are labelled.")
        expect(page.locator("#end pre")).to_contain_text(f"{folder}/answers-a.csv --annotator a --folder {folder}")
        assert lines(folder)[7:] == [["Vertical", "Heterogeneous"]] + [
            [name, ""] for name in ("Vertical", "Diagonal", "Vertical+Diagonal", "Heterogeneous")
        ]
        assert page.complaints == []
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert f"{COUNT} of {COUNT} maps labelled" in server.process.stdout.read()


def post(address, answer, **headers):
    """The status and error of an answer that is posted past the page."""
    request = Request(f"{address}answers", json.dumps(answer).encode(), {"Content-Type": "application/json", **headers})
    with pytest.raises(HTTPError) as refused:
        urlopen(request)
    with refused.value as reply:
        return reply.code, json.load(reply)["error"]


def test_third_look_and_what_cannot_be_saved(folder, page):
    table = begin_labels(folder).table
    differ = table["map_id"].isin(["1", "3"])
    table = table.assign(annotator_a="Vertical", annotator_b=np.where(differ, "Diagonal", "Vertical"))
    write_labels(table, folder)
    path = folder / "answers-third.csv"
    with serving(folder, "third") as server:
        answer = {"file": str(path), "map_id": "1", "pattern": "Vertical", "second": ""}
        assert post(server.address, answer | {"map_id": "2"}) == (400, "map '2' is not among those to be labelled")
        assert "expected one of Vertical" in post(server.address, answer | {"pattern": "V"})[1]
        assert "expected another" in post(server.address, answer | {"second": "Vertical"})[1]
        assert post(server.address, answer | {"file": "answers-a.csv"})[0] == 409
        assert post(server.address, answer | {"second": None})[0] == 400
        assert post(server.address, answer, **{"Content-Type": "text/plain"})[0] == 415
        assert post(server.address, answer, Host="attacker.example")[0] == 400
        assert lines(folder, "third") == []

        page.goto(server.address)
        assert sorted(page.evaluate("maps.map((map) => map.map_id)")) == ["1", "3"]
        assert "Diagonal" not in page.evaluate("JSON.stringify(maps)")  # nothing of the others' answers
        alarm = page.get_by_role("alert")
        expect(alarm).to_be_hidden()
        path.rename(folder / "away")
        press_unsaved(page, "d")
        expect(alarm).to_contain_text("Not saved: Diagonal for map 1")
        expect(alarm).to_contain_text("No such file")
        page.keyboard.press("v")  # nothing else is taken meanwhile
        page.keyboard.press("ArrowRight")
        expect(page.locator("#name")).to_have_text("Map 1 of 2")
        (folder / "away").rename(path)
        page.get_by_role("button", name="Try now").click()
        expect(page.locator("#name")).to_have_text("Map 2 of 2")
        expect(alarm).to_be_hidden()
        assert lines(folder, "third") == [["Diagonal", ""]]

        page.wait_for_function("pictureAt === at")
        server.process.kill()
        server.process.wait()
        press_unsaved(page, "h")
        expect(alarm).to_contain_text("the server does not answer")
        expect(page.locator("#done")).to_have_text("1 of 2 labelled")
        assert all("Failed to load resource" in complaint for complaint in page.complaints)


def press_unsaved(page, key):
    page.wait_for_function("pictureAt === at")
    page.keyboard.press(key)


def test_begun_labels(tmp_path):
    causal = np.tril(random_maps(12, 12))
    maps = {"one": draw(Pattern.BLOCK, 20), "two": causal / causal.sum(axis=1, keepdims=True), "short": np.eye(7)}
    np.savez(tmp_path / "maps.npz", **maps)
    begin_labels(tmp_path)
    table = read_labels(tmp_path)
    assert table[["map_id", "length", "direction", "segments", "split", "text_id"]].to_numpy().tolist() == [
        ["one", 20, "bidirectional", "20", "train", "one"],
        ["two", 12, "causal", "12", "train", "two"],
    ]
    (tmp_path / "labels.csv").write_text("map_id,segments\none,12+8\n")
    begin_labels(tmp_path)
    table = read_labels(tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert table[["map_id", "segments", "length"]].to_numpy().tolist() == [["one", "12+8", 20]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("map_id\nother", "'other' is not in"),
        ("map_id\none\none", "two rows"),
        ("map_id,segments\none,12+9", "expected lengths such as 12[+]9, 20 in all"),
        ("map_id,segments\none,12;8", "has segments '12;8'"),
        ("name\none", "expected map_id"),
        ("map_id,annotator_a\none,Vertical", "no map that waits"),
    ],
)
def test_wrong_labels_are_refused(tmp_path, labels, message):
    np.savez(tmp_path / "maps.npz", one=draw(Pattern.BLOCK, 20))
    (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(typer.BadParameter, match=message):
        annotate(tmp_path, annotator=Annotator.A, port=0)


def test_wrong_maps_are_refused(tmp_path):
    with pytest.raises(typer.BadParameter, match=r"holds no maps\.npz"):
        begin_labels(tmp_path)
    for wrong, message in (
        ({"one": random_maps(9, 9).T}, "'one': .*transposed"),
        ({"one": random_maps(2, 9, 9)}, "'one': .*shape"),
        ({"one": np.array([None])}, "cannot be read"),
    ):
        np.savez(tmp_path / "maps.npz", **wrong)
        with pytest.raises(typer.BadParameter, match=message):
            begin_labels(tmp_path)
    (tmp_path / "maps.npz").write_bytes(b"no archive")
    with pytest.raises(typer.BadParameter, match="cannot be read"):
        begin_labels(tmp_path)
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("map_id,pattern\n", "line 1: 2 cells, expected 3"),
        ("m,Vertical,\n", "line 1: expected the header"),
        ("map_id,pattern,second\nm,V,\n", "line 2: pattern 'V'"),
    ],
)
def test_a_file_of_other_answers_is_refused(tmp_path, content, message):
    path = tmp_path / "answers-a.csv"
    path.write_text(content)
    with pytest.raises(typer.BadParameter, match=message):
        AnswerFile(path)
    assert path.read_text() == content
