"""Temporary folders: removed at the end, after a kill by the next, and never while somebody uses them."""

import subprocess
import sys

import pytest

from attention_patterns.programs.temporary_folders import temporary_folder

HOLD = """
import sys
from pathlib import Path
from attention_patterns.programs.temporary_folders import share_folder, temporary_folder
parent = Path(sys.argv[1])
if sys.argv[2] == "make":
    with temporary_folder("test-", parent=parent) as folder:
        (folder / "file").write_text("content")
        print(folder, flush=True)
        sys.stdin.readline()
else:
    share_folder(Path(sys.argv[2]))
    print("shared", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def start(tmp_path):
    """Starts processes that use a folder until they are told to end, and gives each with the line it printed."""
    processes = []

    def start(role):
        command = [sys.executable, "-P", "-c", HOLD, tmp_path, role]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def end(process):
    process.communicate("\n")
    assert process.returncode == 0


def folders(path):
    return [str(folder) for folder in path.glob("test-*")]


def test_a_folder_is_removed_at_the_end(tmp_path):
    with temporary_folder("test-", parent=tmp_path) as folder:
        (folder / "file").write_text("content")
        assert folders(tmp_path) == [str(folder)]
    assert folders(tmp_path) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next(tmp_path, start):
    living, kept = start("make")
    killed, left = start("make")
    killed.kill()
    killed.wait()
    assert set(folders(tmp_path)) == {kept, left}
    (tmp_path / "test-file").write_text("no folder")
    (tmp_path / "test-link").symlink_to(tmp_path)
    with temporary_folder("test-", parent=tmp_path) as mine:
        assert set(folders(tmp_path)) == {kept, str(mine), str(tmp_path / "test-file"), str(tmp_path / "test-link")}
    assert (tmp_path / "test-link").exists()
    end(living)


def test_the_last_one_out_removes_a_shared_folder(tmp_path, start):
    maker, folder = start("make")
    first, _ = start(folder)
    second, _ = start(folder)
    end(first)
    assert folders(tmp_path) == [folder]
    maker.kill()
    maker.wait()
    assert folders(tmp_path) == [folder]
    with temporary_folder("test-", parent=tmp_path):
        assert folder in folders(tmp_path)  # the second one uses it
    end(second)
    assert folders(tmp_path) == []
