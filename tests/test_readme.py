"""The README's snippets print what it says and its commands run; commands in docs/ are understood; figures are true."""

import re
import shlex
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from typer import Exit
from typer.main import get_command
from typer.testing import CliRunner

from attention_patterns.bundle import BUNDLED
from attention_patterns.labelling.command.cli import app as label_app
from attention_patterns.sample import SAMPLE, sample_encoder
from attention_patterns_service.command.cli import app as serve_app
from attention_patterns_training.__main__ import app as workshop_app
from benchmarks.tables import ALL_TABLES, all_tables, read_tables, replace_figures, six_lines

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((ROOT / "docs").glob("*.md"))
SNIPPETS = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", README, re.DOTALL)
APPS = {
    "attention-label": label_app,
    "attention-serve": serve_app,
    ".venv/bin/python -m attention_patterns_training": workshop_app,
}
PAIRS = "question1\tquestion2\nIs the tide out?\tDo boats lie on the sand?\n"


def commands(text, program):
    """The arguments of each line of a code block that calls a program, without its comment."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.partition(" #")[0].strip() for kind, block in blocks if not kind for line in block.splitlines()]
    return [line.removeprefix(program).split() for line in lines if line.startswith(f"{program} ")]


def run(app, arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"{shlex.join(arguments)}: {done.output}"


def understand(app, arguments):
    """Reads the arguments as the command does, and does nothing."""
    command = get_command(app)
    while arguments and arguments[0] in getattr(command, "commands", {}):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    with suppress(Exit):  # --help
        command.make_context(command.name, list(arguments))


def test_snippets_print_what_the_readme_says(server, capsys):
    """They are run in order, as one session."""
    names: dict[str, object] = {}
    for code, expected in SNIPPETS:
        exec(code.replace("127.0.0.1:50051", server.endpoint), names)
        printed = capsys.readouterr().out
        assert printed == (expected or printed)
    assert len(SNIPPETS) == 4


def test_label_commands_run(server, tmp_path, monkeypatch):
    """Each kind of run gets a folder of its own; the commands that read a run get the first."""
    monkeypatch.chdir(tmp_path)
    Path("dumps").mkdir()
    Path("dumps/one.npz").write_bytes(SAMPLE.read_bytes())
    Path("pairs.tsv").write_text(PAIRS)
    lines = [line for line in commands(README, "attention-label") if "ray" not in line]  # Ray takes 15 s to start
    replacements = {"MODEL": str(sample_encoder()), "127.0.0.1:50051": server.endpoint}
    runs = []
    for line in sorted(dict.fromkeys(map(tuple, lines)), key=lambda line: line[0] != "run"):
        arguments = [replacements.get(word, word) for word in line]
        if line[0] == "run":
            runs.append(f"RUN{len(runs)}")
        run(label_app, [runs[-1 if line[0] == "run" else 0] if word == "RUN" else word for word in arguments])
        assert line[0] != "run" or "--dry-run" in line or Path(runs[-1], "heads.parquet").stat().st_size > 1000
    assert Path("RUN0/report.html").exists()
    assert len(runs) == 4


def test_health_command_runs(server):
    ((_, address),) = [line for line in commands(README, "attention-serve") if line[0] == "health"]
    assert address == "127.0.0.1:50051"
    run(serve_app, ["health", server.endpoint])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page):
    """Commands and options exist; nothing is run."""
    for program, app in APPS.items():
        for arguments in commands(page.read_text(), program):
            understand(app, arguments)


def test_workshop_page_has_a_row_per_command():
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", (ROOT / "docs/workshop.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"[a-z-]+", row)} == set(get_command(workshop_app).commands)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ALL_TABLES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert not missing


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"\bmake ([a-z-]+)\b(?=`|  |\n)", page.read_text())}
    assert {"run", "test", "check", "train", "bench"} <= named <= targets


def test_every_extra_is_in_the_table():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| ((?:`\[\w+\]`(?:, )?)+) \|", README, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == set(extras)


def test_tables_are_those_that_were_kept():
    tables = read_tables()
    assert ALL_TABLES.read_text() == replace_figures(ALL_TABLES.read_text(), all_tables(tables))
    assert replace_figures(README, six_lines(tables)) == README


def test_figures_of_the_net_are_those_of_its_card():
    card = (BUNDLED / "MODEL_CARD.md").read_text()
    for split in ("test", "models from elsewhere"):
        cells = re.search(rf"^\| {split} \|(.*)\|$", card, re.MULTILINE)[1].split("|")
        f1, accuracy = (cell.split()[0] for cell in cells[1:3])
        assert re.search(rf"{f1} and (an accuracy of )?{accuracy}", README)
