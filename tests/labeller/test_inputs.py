"""Inputs as the command line gives them: paths, and tasks' names before them."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.inputs import InputArgument, parse_input
from attention_patterns.labelling.sources.texts.tasks import text_tasks

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\:=*?[]\0"), min_size=1, max_size=300)
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dump_names(*arguments):
    return [task for task, _ in dump_tasks(arguments)]


def text_names(*arguments):
    return [task for task, _ in text_tasks(arguments)]


@pytest.fixture(params=[(dump_names, "npy"), (text_names, "txt")], ids=["dumps", "texts"])
def door(request, folder):
    """A function that returns the names of the tasks of its inputs, and one that writes a file for it."""
    names, suffix = request.param

    def write(stem):
        path = Path(f"{stem}.{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == "npy":
            np.save(path, np.eye(4, dtype=np.float32))
        else:
            path.write_text("a text\n")
        return str(path)

    return names, write


@given(name=NAMES, path=PATHS)
def test_a_name_and_a_path_are_what_stands_around_the_first_equals_sign(name, path):
    assert parse_input(f"{name}={path}") == InputArgument(name, path)


@given(st.text(st.characters(codec="utf-8", exclude_characters="=\0")))
def test_without_an_equals_sign_all_is_the_path(path):
    assert parse_input(path) == InputArgument(None, path)


@given(st.text(st.characters(), min_size=1))
def test_any_text_is_read_or_refused_by_an_error_of_ours(text):
    try:
        read = parse_input(text)
    except SourceError:
        return
    assert text == (read.path if read.task is None else f"{read.task}={read.path}")


@pytest.mark.parametrize(
    "path",
    [
        "s3://bucket/k=v/x.npz",
        "datasets:glue/qqp:train",
        "datasets:a=b",
        "runs/lr=0.1/x.npz",
        "=x.npz",
        "x.npz=",
        *(f"a{sign}b=x.npz" for sign in "/\\:*?[]"),
    ],
)
def test_these_are_paths_as_a_whole(path):
    assert parse_input(path) == InputArgument(None, path)


@pytest.mark.parametrize(
    ("argument", "task", "path"),
    [
        ("glue=datasets:glue/qqp:train", "glue", "datasets:glue/qqp:train"),
        ("mine=s3://bucket/k=v/x.npz", "mine", "s3://bucket/k=v/x.npz"),
        ("task 1, of 2=a=b", "task 1, of 2", "a=b"),
        (".=x.npz", ".", "x.npz"),
        ("lr=*.npz", "lr", "*.npz"),
    ],
)
def test_these_have_a_name(argument, task, path):
    assert parse_input(argument) == InputArgument(task, path)


def test_what_exists_under_the_whole_argument_is_a_path_for_every_door(door):
    names, write = door
    whole, plain, inside = write("lr=0.1"), write("x"), write("rate=1/y")
    assert names(whole) == ["lr=0.1"]
    assert names(f"lr={plain}") == ["lr"]
    assert names(f"./{whole}") == ["lr=0.1"]
    assert names(inside) == ["y"]
    assert parse_input("rate=1/*") == InputArgument(None, "rate=1/*")
    assert parse_input("rate=2/*") == InputArgument("rate", "2/*")


def test_a_sign_that_no_name_holds_makes_a_path_for_every_door(door):
    names, write = door
    with pytest.raises(SourceError, match=r"^a:b=x\.\w+ does not exist"):
        names(f"a:b={write('x')}")


@pytest.mark.parametrize("before", ["", "name=", "n" * 300 + "="])
def test_a_path_that_is_too_long_is_refused_by_name_for_every_door(door, before):
    names, _ = door
    path = f"{'x' * 300}.{'npy' if names is dump_names else 'txt'}"
    with pytest.raises(SourceError, match=f"^{path} is longer than a path may be$"):
        names(before + path)


def test_a_long_name_is_one_for_every_door(door):
    names, write = door
    assert names(f"{'n' * 300}={write('x')}") == ["n" * 300]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("a\0b.npy", r"^input 'a\\x00b\.npy' holds a null byte"),
        ("a=\0", r"^input 'a=\\x00' holds a null byte"),
        ("\udcff=x.npy", r"^input '\\udcff=x\.npy' is not UTF-8; rename the file, or give the folder"),
    ],
)
def test_what_can_be_no_path_is_refused_by_name_for_every_door(door, argument, message):
    names, _ = door
    with pytest.raises(SourceError, match=message):
        names(argument)


@pytest.mark.parametrize(
    ("arguments", "tasks"),
    [
        (["runs/a/1.npy"], {"1": ["1.npy"]}),
        (["runs/a/1.npy", "runs/a/2.npy", "runs/a/1.npy"], {"a": ["1.npy", "2.npy"]}),
        (["runs/a/*.npy"], {"a": ["1.npy", "2.npy"]}),
        (["runs/a"], {"a": ["1.npy", "2.npy"]}),
        (["runs/a/1.npy", "runs/b/1.npy"], {"runs": ["a/1.npy", "b/1.npy"]}),
        (["runs/*/1.npy"], {"runs": ["a/1.npy", "b/1.npy"]}),
        (["runs/a", "runs/b", "runs/3.npy"], {"a": ["1.npy", "2.npy"], "b": ["1.npy"], "3": ["3.npy"]}),
        (["runs/*"], {"a": ["1.npy", "2.npy"], "b": ["1.npy"], "3": ["3.npy"]}),
        (["t=runs/*"], {"t": ["a/1.npy", "a/2.npy", "b/1.npy", "3.npy"]}),
        (["t=runs/b/1.npy", "runs/a/1.npy", "t=runs/3.npy"], {"t": ["b/1.npy", "3.npy"], "1": ["1.npy"]}),
    ],
)
@pytest.mark.parametrize("start", ["", "./", "{folder}/", "file://{folder}/"])
def test_files_given_one_by_one_are_one_task(folder, arguments, tasks, start):
    """A glob means the same whether the shell expands it or the labeller does."""
    for name in ("a/1", "a/2", "b/1", "3"):
        (folder / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / "runs" / name, np.eye(4, dtype=np.float32))
    front = start.format(folder=folder)
    given = [re.sub(r"^(t=)?", lambda name: name[0] + front, argument) for argument in arguments]
    assert {task: [file.name for file in files] for task, files in dump_tasks(given)} == tasks


def test_pictures_given_one_by_one_are_one_task_beside_each_text(folder):
    for name in ("zoo/a.png", "zoo/b.png", "zoo/more/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in ("x.txt", "y.txt"):
        (folder / name).write_text("a text\n")
    expanded = {"x": ["x.txt:1"], "y": ["y.txt:1"], "zoo": ["a.png", "b.png"]}
    for arguments in (["x.txt", "zoo/a.png", "y.txt", "zoo/b.png"], ["*.txt", "zoo/*.png"]):
        tasks = text_tasks(arguments)
        assert {name: [item.input_id for item in items] for name, items in tasks} == expanded
