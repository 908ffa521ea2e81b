"""The report page of a run, in a real browser, and the figures beside it."""

import re
import shutil
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from attention_patterns.errors import MissingExtraError, OutputError, SourceError
from attention_patterns.labelling.output.folder import RunFolder
from attention_patterns.labelling.output.part import Part, PartMaker
from attention_patterns.labelling.output.table import LABELS
from attention_patterns.labelling.report import contents, write_report
from attention_patterns.labelling.report.examples import choose, read_examples
from attention_patterns.labelling.run.run import label
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.dumps.source import DumpSource
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.summary.summary import summarise
from attention_patterns.patterns import PATTERNS
from attention_patterns.sample import load_sample

SWITCHES = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
SWITCHES += ("disable-component-update", "disable-sync")
HOSTILE_TASK = "<img src=x onerror=document.title=1>"
HOSTILE_TOKENS = ["</script><script>document.title=1</script>", "{{ 7 * 7 }}", "<!--<script>", "\u202e&amp;$x_1$"]
LIMIT = 8_000_000
TO, TIMES = "\u2013", "\u00d7"


def shortened(sample, length):
    """The sample with its first tokens only."""
    attention = sample.attention[..., :length, :length].astype(np.float32)
    return attention / attention.sum(axis=-1, keepdims=True)


def softmax(scores):
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (exp / exp.sum(axis=-1, keepdims=True)).astype(np.float32)


def save(folder, name, attention, tokens, segments):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / name, attention=attention, tokens=np.array(tokens, str), segments=segments)


def run(classifier, output, *folders, **options):
    source = DumpSource(dump_tasks([str(folder) for folder in folders]))
    settings = {"model": None, "truncate": False, "note": "</script><b>a run</b>"}
    return label(PartMaker(source, classifier, Memory(None), **options), output=output, settings=settings).folder


@pytest.fixture(scope="module")
def sample():
    return load_sample()


@pytest.fixture(scope="module")
def folder(classifier, sample, tmp_path_factory):
    """A run over the sample at many lengths, of two tasks; one input of the first cannot be labelled."""
    root = tmp_path_factory.mktemp("run")
    tokens, segments = sample.tokens, sample.segments
    for length in range(14, 27):
        save(root / "pairs", f"{length}.npz", shortened(sample, length), tokens[:length], segments[:length])
    for length in (10, 11, 12):
        hostile = (HOSTILE_TOKENS * 3)[:length]
        save(root / HOSTILE_TASK, f"{length}.npz", shortened(sample, length), hostile, segments[:length])
    bad = shortened(sample, 20)
    bad[1, 2, 3] /= 2
    np.save(root / "pairs" / "bad.npy", bad)
    made = run(classifier, root / "out", root / "pairs", root / HOSTILE_TASK, keep_maps=True)
    write_report(made)
    return made


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        pytest.skip("no Chromium is installed to open the page in")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=[f"--{switch}" for switch in SWITCHES])
        yield running
        running.close()


@dataclass(frozen=True)
class Watched:
    """A page, and what it complained of and asked the network for."""

    page: object
    complaints: list
    requests: list


@pytest.fixture
def opened(browser):
    """Opens a run's page."""
    pages = []

    def opened(folder, width=1280, fragment="", **options):
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.set_default_timeout(10_000)
        watched = Watched(page, [], [])
        page.on("console", lambda message: watched.complaints.append(message.text))
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))
        page.goto((folder.path / "report.html").as_uri() + fragment)
        pages.append(watched)
        return page

    yield opened
    for watched in pages:
        watched.page.wait_for_timeout(100)
        assert watched.complaints == []
        assert [url[:80] for url in watched.requests[1:] if not url.startswith("data:")] == []
        watched.page.close()


def cell(page, layer, head):
    return page.get_by_role("gridcell", name=re.compile(rf"^Layer {layer}, head {head}:"))


def pairs_of(folder):
    return next(stack for stack in summarise(folder.table_files("labels")) if stack.task == "pairs")


def test_a_click_shows_the_head(folder, opened):
    page, stack = opened(folder), pairs_of(folder)
    expect(page.get_by_role("gridcell")).to_have_count(72)
    panel = page.locator("#panel")
    expect(panel.locator("h3")).to_have_text("Layer 0, head 0")
    cell(page, 2, 5).click()
    expect(panel.locator("h3")).to_have_text("Layer 2, head 5")
    expect(cell(page, 2, 5)).to_have_attribute("aria-selected", "true")
    best = stack.counts[2, 5].argmax()
    verdict = panel.locator(".verdict").inner_text().replace("\u00a0", " ")
    low, high = 100 * stack.of_heads.low[2, 5, best], 100 * stack.of_heads.high[2, 5, best]
    share = 100 * stack.of_heads.share[2, 5, best]
    interval = f"95 % interval {low:.1f}{TO}{high:.1f} %"
    assert verdict.startswith(f"{PATTERNS[best]} in {share:.1f} % of 13 inputs ({interval})")
    assert f"entropy {stack.entropy[2, 5]:.2f} bits" in verdict
    expect(panel).to_contain_text(f"row entropy{stack.measures['row_entropy'][2, 5]:.3f}")
    expect(panel.locator(".thumbs button")).to_have_count(8)
    assert page.url.endswith("#stack=0&layer=2&head=5")


def test_pointing_at_the_map_reads_its_attention(folder, sample, opened):
    page = opened(folder, fragment="#stack=0&layer=3&head=4")
    page.locator(".thumbs button").nth(2).click()
    length = int(page.locator(".case b").first.inner_text().removesuffix(".npz"))
    attention = shortened(sample, length)[3, 4]
    picture = page.locator(".map svg")
    assert picture.locator("text").all_text_contents()[::2] == list(sample.tokens[:length])
    frame = picture.locator(".frame").bounding_box()
    for query, key in ((0, 0), (5, 8), (7, 2)):
        unit = frame["width"] / length
        page.mouse.move(frame["x"] + (key + 0.5) * unit, frame["y"] + (query + 0.5) * unit)
        read = page.locator(".read").inner_text()
        found = re.fullmatch(r"query (.+) \((\d+)\) → key (.+) \((\d+)\): ≈ (?:< )?(\d\.?\d*)", read)
        assert found, read
        assert found.group(1, 2, 3, 4) == (sample.tokens[query], str(query), sample.tokens[key], str(key))
        assert float(found[5]) == pytest.approx(attention[query, key], rel=0.1, abs=0.015)
    picture.press("ArrowUp")
    expect(page.locator(".read")).to_contain_text(f"({query - 1}) → key")


def test_filters_dim_the_grid_and_shorten_the_list(folder, opened):
    page, stack = opened(folder), pairs_of(folder)
    lines = page.locator("#table tbody tr:visible")
    expect(lines).to_have_count(72)
    best = stack.counts.argmax(axis=-1)
    vertical = int((best == 0).sum())
    page.get_by_role("button", name=re.compile("^V Vertical ")).click()
    expect(page.locator(".cell.dim")).to_have_count(72 - vertical)
    expect(lines).to_have_count(vertical)
    expect(page.locator("#count")).to_have_text(f"{vertical} of 72 heads")
    page.locator("#verdict").select_option("stable")
    expect(lines).to_have_count(int(((best == 0) & stack.stable).sum()))
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator(".cell.dim")).to_have_count(0)
    page.get_by_label("From layer").fill("2")
    page.get_by_label("To layer").fill("3")
    expect(lines).to_have_count(24)
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("Token group").select_option("[CLS]")
    page.get_by_label("Least attention, per cent").fill("30")
    expect(lines).to_have_count(int((np.round(1000 * stack.attention_to["[CLS]"].means["share"]) >= 300).sum()))


def test_the_list_sorts(folder, opened):
    page, stack = opened(folder), pairs_of(folder)
    heading = page.get_by_role("columnheader", name="row entropy")
    column = page.locator("#table thead th").all_inner_texts().index("row entropy")
    values = page.locator(f"#table tbody td:nth-child({column + 1})")
    expected = [f"{value:.3f}" for value in sorted(np.round(stack.measures["row_entropy"].ravel(), 3))]
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    assert values.all_inner_texts() == expected[::-1]
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    assert values.all_inner_texts() == expected
    page.locator("#table tbody tr").first.click()
    layer, head = np.unravel_index(stack.measures["row_entropy"].argmin(), (6, 12))
    expect(page.locator("#panel h3")).to_have_text(f"Layer {layer}, head {head}")


def test_the_grid_is_reached_by_keys(folder, opened):
    page = opened(folder)
    assert page.locator(".cell[tabindex='0']").count() == 1
    cell(page, 0, 0).focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    expect(cell(page, 0, 2)).to_be_focused()
    expect(page.locator("#panel h3")).to_have_text("Layer 0, head 2")
    page.keyboard.press("Shift+Tab")
    page.get_by_role("button", name="Maps").click()
    expect(page.locator(".cell canvas")).to_have_count(72)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_light_and_dark(folder, opened, scheme, tmp_path):
    page = opened(folder, width=390, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    with Image.open(tmp_path / "page.png") as picture:
        assert (np.asarray(picture.convert("L"))[:40, :8].mean() > 128) == (scheme == "light")


def test_names_and_tokens_from_outside_are_inert(folder, opened):
    page = opened(folder)
    title = page.title()
    cell(page, 1, 1).click()
    page.locator("#stack").select_option(label=HOSTILE_TASK)
    expect(page.locator("#panel h3")).to_have_text("Layer 1, head 1")  # the same head, to compare tasks
    expect(page.locator(".map svg")).to_be_visible()
    assert page.locator(".map text").first.text_content() == HOSTILE_TOKENS[0][:14] + "…"
    page.wait_for_timeout(200)
    assert page.title() == title != "1"
    assert page.locator("img").count() == page.locator("main script").count() == 0
    expect(page.locator("#shares tbody th").nth(1)).to_have_text(HOSTILE_TASK)
    expect(page.locator("#made")).to_contain_text("</script><b>a run</b>")


def test_failures_are_shown(folder, opened):
    page = opened(folder)
    expect(page.locator(".facts")).to_contain_text("16 inputs labelled")
    expect(page.locator("#trouble tbody tr").first).to_contain_text("RowSumError")
    expect(page.locator("#trouble tbody tr").first).to_contain_text("bad.npy: attention[layer 1, head 2]: row 3 sums")
    expect(page.locator("#made")).to_contain_text("attention-patterns-cnn")


def test_figures_are_there_and_can_be_read(folder):
    made = folder.path / "figures"
    names = {
        f"{name}.{kind}" for name in ("shares", "patterns-01", "attention-01", "patterns-02") for kind in ("png", "svg")
    }
    assert {file.name for file in made.iterdir()} == names
    for name in names:
        if name.endswith("png"):
            with Image.open(made / name) as picture:
                assert min(picture.size) > 300
                assert len(np.unique(np.asarray(picture.convert("L")))) > 20
        else:
            assert ET.parse(made / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_report_is_made_anew(classifier, sample, tmp_path):
    save(tmp_path / "a", "one.npz", sample.attention, sample.tokens, sample.segments)
    made = run(classifier, tmp_path / "out", tmp_path / "a")
    (tmp_path / "out" / "figures").mkdir()
    (tmp_path / "out" / "figures" / "patterns-07.svg").write_text("of an earlier report")
    (tmp_path / "out" / "figures" / "mine.svg").write_text("of the user")
    first = write_report(made).read_bytes()
    assert write_report(made).read_bytes() == first
    assert {"mine.svg", "patterns-01.svg"} < {file.name for file in (tmp_path / "out" / "figures").iterdir()}
    assert not (tmp_path / "out" / "figures" / "patterns-07.svg").exists()


def test_a_group_that_some_inputs_lack_says_over_how_many_its_means_are(classifier, sample, tmp_path, opened):
    for n in range(11):
        tokens = ["[CLS]", *("word" for _ in sample.tokens[2:]), "[SEP]" if n < 3 else "word"]
        save(tmp_path / "a", f"{n}.npz", sample.attention, tokens, sample.segments)
    made = run(classifier, tmp_path / "out", tmp_path / "a")
    write_report(made)
    page, over = opened(made), "over 3 of 11 inputs"
    captions = page.locator("#heats figcaption")
    expect(captions.filter(has_text="[SEP]")).to_contain_text(over)
    expect(captions.filter(has_text="[CLS]")).not_to_contain_text("over")
    expect(page.locator("#panel .pairs div").filter(has_text="[SEP]")).to_contain_text(over)
    expect(page.locator("#panel .pairs div").filter(has_text="[CLS]")).not_to_contain_text("over")
    expect(page.locator("#table thead").get_by_role("button", name="[SEP]")).to_contain_text(over)
    figure = (made.path / "figures" / "attention-01.svg").read_text()
    assert figure.count(over) == 1


def test_one_input_without_tokens_or_kept_maps(classifier, sample, tmp_path, opened):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "one.npy", sample.attention[:1])
    made = run(classifier, tmp_path / "out", tmp_path / "a")
    write_report(made)
    page = opened(made)
    expect(page.locator("#attention")).to_be_hidden()
    expect(page.locator(".verdict")).to_contain_text("One input does not show stability")
    page.locator(".map svg").hover()
    expect(page.locator(".read")).to_contain_text("query position (")
    for file in made.table_files("maps"):
        file.unlink()
    write_report(made)
    expect(opened(made).locator("#panel")).to_contain_text("No maps were kept of these inputs")


def test_a_run_of_which_all_failed_says_so(classifier, tmp_path, opened):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "one.npy", np.full((2, 9, 9), 7, np.float32))
    made = run(classifier, tmp_path / "out", tmp_path / "a")
    write_report(made)
    page = opened(made)
    expect(page.locator("#heads")).to_contain_text("All 1 inputs of this run failed")
    expect(page.locator("#trouble")).to_contain_text("one.npy")
    assert list((made.path / "figures").iterdir()) == []


def test_long_inputs_are_read_by_cells(classifier, tmp_path, opened):
    scores = np.random.default_rng(3).normal(size=(1, 2, 130, 130))
    scores[..., 7] += 6
    tokens = ["[CLS]", *(f"w{n}" for n in range(1, 129)), "[SEP]"]
    save(tmp_path / "a", "long.npz", softmax(scores), tokens, np.zeros(130, int))
    made = run(classifier, tmp_path / "out", tmp_path / "a")
    write_report(made)
    page = opened(made)
    frame = page.locator(".map .frame").bounding_box()
    page.mouse.move(frame["x"] + 2.5 / 48 * frame["width"], frame["y"] + 0.5 / 48 * frame["height"])
    expect(page.locator(".read")).to_contain_text(f"query [CLS] … w1 (0{TO}1) → key w5 … w7 (5{TO}7): at most ≈ 0.")
    assert "[SEP]" in page.locator(".map text").all_text_contents()


def test_examples_are_spread_over_what_was_kept(folder):
    key = ("pairs", None, None)
    chosen = choose(folder)[key]
    found = list(read_examples(folder, key, chosen))
    numbers = [int(one.removesuffix(".npz")) for one in chosen.order]
    assert numbers == [14 + n * 13 // 8 for n in range(8)]
    assert {one.input_id for one in found} == set(chosen.order)
    labels = pa.concat_tables([pq.read_table(file) for file in folder.table_files("labels")]).to_pylist()
    for one in found:
        rows = [row for row in labels if (row["task"], row["input_id"]) == ("pairs", one.input_id)]
        assert [PATTERNS[n] for n in one.patterns] == [row["pattern"] for row in rows]
        assert one.probabilities[:, 1].tolist() == [row["probability_diagonal"] for row in rows]
        assert one.shades.shape == (72, one.length, one.length)


def many_times(folder, made, times):
    """A run of the same inputs so many times under other names, of which the first keep their maps."""
    (file,) = made.table_files("labels")
    labels, tables = (
        pq.read_table(file),
        {name: (made.path / name / file.name).read_bytes() for name in ("inputs", "maps")},
    )
    folder.mkdir()
    many = RunFolder(folder)
    many.begin(made.read_request())
    for n in range(times):
        ids = pa.array([f"{one}#{n}" if n else one for one in labels["input_id"].to_pylist()])
        sink = pa.BufferOutputStream()
        pq.write_table(labels.set_column(LABELS.get_field_index("input_id"), "input_id", ids), sink, compression="none")
        inputs = labels["input_id"].combine_chunks().value_counts()
        rows = {"labels": sink.getvalue().to_pybytes(), **(tables if n == 0 else {})}
        many.keep(Part(n, rows, len(inputs), labels.num_rows, 0, ()))
    return many


def test_a_thousand_inputs_of_32_by_32_heads_fit(classifier, tmp_path, opened):
    random = np.random.default_rng(5)
    tokens = ["[CLS]", *(f"w{n}" for n in range(1, 63)), "[SEP]"]
    for n in range(4):  # noise is what compresses least
        save(tmp_path / "a", f"{n}.npz", softmax(random.normal(size=(32, 32, 64, 64))), tokens, [0] * 30 + [1] * 34)
    made = many_times(tmp_path / "many", run(classifier, tmp_path / "out", tmp_path / "a", keep_maps=True), 250)
    path = write_report(made)
    assert path.stat().st_size < LIMIT
    page = opened(made)
    expect(page.locator("#stack-facts")).to_contain_text(f"32 layers {TIMES} 32 heads, 1,000 inputs")
    expect(page.get_by_role("gridcell")).to_have_count(1024)
    assert page.locator(".thumbs button").count() >= 2
    box = page.locator("#grid").bounding_box()
    assert page.locator(".cell").last.bounding_box()["width"] >= 17
    assert box["x"] + box["width"] <= page.locator("#panel").bounding_box()["x"]
    cell(page, 31, 31).click()
    expect(page.locator("#panel h3")).to_have_text("Layer 31, head 31")


def test_what_has_no_room_is_left_out_and_counted(folder, tmp_path, monkeypatch, opened):
    stacks = summarise(folder.table_files("labels"))
    whole = contents.contents(folder, stacks)
    numbers = sum(contents.size_of(stack | {"examples": []}) for stack in whole["stacks"])
    maps = sum(contents.size_of(example) for stack in whole["stacks"] for example in stack["examples"])
    monkeypatch.setattr(contents, "ALL_BYTES", numbers + maps // 2)
    half = contents.contents(folder, stacks)
    assert maps / 4 < contents.size_of(half) - numbers < maps / 2 + 1000
    assert [len(stack["examples"]) >= 2 for stack in half["stacks"]] == [True, True]
    monkeypatch.setattr(contents, "STACK_BYTES", numbers - 1000)
    shutil.copytree(folder.path, tmp_path / "copy")
    write_report(RunFolder(tmp_path / "copy"))
    page = opened(RunFolder(tmp_path / "copy"))
    assert page.locator("#stack option").all_inner_texts() == [stacks[0].task, "1 more have no room on this page"]
    expect(page.locator("#shares tbody tr")).to_have_count(2)


def test_a_model_of_very_many_heads_still_shows_a_map(folder, monkeypatch):
    stacks = [stack for stack in summarise(folder.table_files("labels")) if stack.task == "pairs"]
    whole = contents.contents(folder, stacks)["stacks"][0]
    numbers = contents.size_of(whole | {"examples": []})
    monkeypatch.setattr(contents, "ALL_BYTES", numbers + 2 * contents.size_of(whole["examples"][0]) // 3)
    (example,) = contents.contents(folder, stacks)["stacks"][0]["examples"]
    assert example["cells"] == len(example["tokens"]) < example["length"] == 14
    assert example["tokens"][0] == " … ".join(load_sample().tokens[:2])


def test_maps_shrink_to_the_darkest():
    shades = np.random.default_rng(8).integers(0, 255, (2, 9, 9)).astype(np.uint8)
    small = contents.shrink(shades, 4)  # rows and columns 0-1, 2-3, 4-5, 6-8
    assert small.shape == (2, 4, 4)
    assert small[1, 3, 0] == shades[1, 6:9, 0:2].max()
    assert contents.shrink(shades, 9) is shades


def test_without_its_extra_or_a_run_there_is_an_error(folder, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match=r"is not a run folder"):
        write_report(RunFolder(tmp_path))
    for missing in ("jinja2", "matplotlib", "PIL"):
        for loaded in [
            name for name in sys.modules if name.startswith(("attention_patterns.labelling.report.", missing))
        ]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(MissingExtraError, match=rf"^attention-label report needs the extra 'report' \({missing} "):
            write_report(folder)
        monkeypatch.undo()


def test_a_folder_that_cannot_be_written_to(classifier, sample, tmp_path):
    save(tmp_path / "a", "one.npz", sample.attention, sample.tokens, sample.segments)
    made = run(classifier, tmp_path / "out", tmp_path / "a")
    (tmp_path / "out" / "figures").write_text("a file is in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(made)
