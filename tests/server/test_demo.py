import re
import subprocess
import sys


def test_the_main_job_on_the_bundled_sample(tmp_path):
    """What ``make run`` does: a server process, the client, the grid, the shares, the ratios, the page."""
    page = tmp_path / "deep" / "sample.html"
    command = [sys.executable, "-m", "attention_patterns_service.command.demo", "--output", str(page)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(re.findall(r"^layer \d ", done.stdout, re.MULTILINE)) >= 6
    shares = [float(share) for share in re.findall(r"(\d+\.\d)%", done.stdout)]
    assert len(shares) == 5
    assert abs(sum(shares) - 100) < 0.3
    assert re.search(r"layer +\[CLS\] +\[SEP\]", done.stdout)
    html = page.read_text()
    assert "Vertical+Diagonal" in html
    assert "http" not in re.sub(r'<a href="[^"]*"', "", html)  # self-contained
