import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from attention_patterns.labelling.command.cli import app
from attention_patterns.sample import SAMPLE


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The main job, as ``make run`` does it, where another run stands already; its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "sample"
    assert CliRunner().invoke(app, ["run", str(SAMPLE), f"--output={folder}", "--layers=0", "-q"]).exit_code == 0
    command = [sys.executable, "-P", "-m", "attention_patterns_service.command.demo", "--output", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_main_job_shows_the_patterns_of_the_sample(demo):
    """A server process, the labeller as its client: the grid, the shares, the attention to special tokens."""
    _, done = demo
    assert re.fullmatch(r"1 file, 1 task 'sample'\n\W*1/1 inputs, 72 maps, .*\n", done.stderr)  # and the progress bar
    assert len(re.findall(r"^layer \d ", done.stdout, re.MULTILINE)) >= 6
    shares = [float(share) for share in re.findall(r"(\d+\.\d)%", done.stdout)]
    assert len(shares) == 5
    assert abs(sum(shares) - 100) < 0.3
    assert re.search(r"layer +\[CLS\] +\[SEP\]", done.stdout)


def test_the_main_job_ends_with_a_page_that_shows_the_maps(demo):
    folder, done = demo
    assert done.stdout.splitlines()[-1].endswith(f" {folder}/report.html")
    html = (folder / "report.html").read_text()
    assert "Vertical+Diagonal" in html
    assert not re.search(r"""(src=|href=|url\()["']?https?:""", re.sub(r'<a href="[^"]*"', "", html))  # self-contained
    assert list((folder / "maps").iterdir())
