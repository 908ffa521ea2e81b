"""The README's snippets run and print what it says, its commands exist, and its map is complete."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from attention_patterns.sample import SAMPLE, sample_encoder
from attention_patterns_service.command.demo import running_server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", README, re.DOTALL)
LABEL_LINES = re.findall(r"^attention-label (.*?)(?: *#.*)?$", README, re.MULTILINE)


def test_snippets_print_what_the_readme_says(capsys):
    """They are run in order, as one session."""
    names: dict[str, object] = {}
    with running_server() as endpoint:
        for code, expected in SNIPPETS:
            exec(code.replace("127.0.0.1:50051", endpoint), names)
            printed = capsys.readouterr().out
            assert printed == (expected or printed)
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize("line", LABEL_LINES)
def test_label_commands_run(line, tmp_path):
    (tmp_path / "dumps").mkdir()
    (tmp_path / "dumps" / "one.npz").write_bytes(SAMPLE.read_bytes())
    (tmp_path / "pairs.tsv").write_text(
        "question1\tquestion2\nIs the tide out?\tDo boats lie on the sand?\nWho came?\tDid anybody come?\n"
    )
    with running_server() as endpoint:
        line = line.replace("127.0.0.1:50051", endpoint).replace("MODEL", str(sample_encoder()))
        if not line.startswith("run"):
            labelled("run dumps/ -o RUN", tmp_path)
        done = labelled(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--dry-run" in line or (tmp_path / "RUN" / "heads.parquet").stat().st_size > 1000


def labelled(line, folder):
    command = [str(Path(sys.executable).with_name("attention-label")), *line.split()]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?\bmake ([a-z]+)\b", README))
    assert {"run", "test", "check", "train", "bench"} <= named <= targets


def test_the_map_names_every_file():
    files = {
        str(path.relative_to(ROOT))
        for folder in ("benchmarks", "classifier", "service", "training")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py" and not path.is_relative_to(ROOT / "service" / "pb") and "peers" not in path.parts
    }
    assert set(re.findall(r"^\| `([a-z_/]+\.py)` \|", README, re.MULTILINE)) == files
