"""Each folder's docstring lists its files, the architecture page names each folder, docstrings read as sentences."""

import ast
import re
from pathlib import Path

import pytest

from attention_patterns.measures import EVIDENCE, GROUP_MEASURES

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "classifier/attention_patterns",
    "service/attention_patterns_service",
    "training/attention_patterns_training",
    "benchmarks",
    "tests",
)
MOST_LINES = 200  # of the README
FRAGMENT = re.compile(r"What |Likewise|For the |Of |As |How |Where |[a-z]")
LISTED = re.compile(r"^ *([\w.]+(?:\.py|/))(?:  +|$)(.*)")


def is_package(folder):
    return (folder / "__init__.py").exists() and "pb" not in folder.parts


FOLDERS = [
    folder
    for package in PACKAGES
    for folder in [ROOT / package, *sorted((ROOT / package).rglob("*/"))]
    if is_package(folder)
]


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_docstring_lists_the_files(folder):
    """One line per file and per sub-folder that is a package; other folders may be listed, and must exist."""
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    lines = [match for line in docstring.splitlines() if (match := LISTED.match(line))]
    assert all(match[2] for match in lines), "each name is followed by what it holds"
    listed = [match[1] for match in lines]
    expected = {file.name for file in folder.glob("*.py")} - {"__init__.py"}
    expected |= {f"{inner.name}/" for inner in folder.iterdir() if inner.is_dir() and is_package(inner)}
    existing = {f"{inner.name}/" for inner in folder.iterdir() if inner.is_dir()} | expected
    assert not expected - set(listed), "missing in the list"
    assert not set(listed) - existing, "listed and not there"
    assert len(listed) == len(set(listed))


def test_architecture_names_every_folder():
    page = (ROOT / "docs/architecture.md").read_text()
    missing = [folder for folder in map(relative, FOLDERS) if f"`{folder}/`" not in page]
    assert not missing


def docstrings(file):
    tree = ast.parse(file.read_text())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), docstring


@pytest.mark.parametrize("package", [*PACKAGES[:-1], "docs"])
def test_docstrings_begin_with_a_sentence(package):
    """They begin with a verb or a noun, not with a relative clause or a fragment."""
    files = [file for file in sorted((ROOT / package).rglob("*.py")) if "pb" not in file.parts]
    fragments = [
        f"{relative(file)}: {name}: {docstring.splitlines()[0]}"
        for file in files
        for name, docstring in docstrings(file)
        if FRAGMENT.match(docstring)
    ]
    assert not fragments, "\n".join(fragments)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("measures", [GROUP_MEASURES, EVIDENCE], ids=["attention_to", "evidence"])
def test_measures_page_has_a_row_per_measure(measures):
    """In the order of the declaration, with its unit and its source."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs/measures.md").read_text(), re.MULTILINE)
    found = {name: [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)] for name, rest in rows if name in measures}
    assert list(found) == list(measures)
    for name, measure in measures.items():
        _, unit, _, source = found[name]
        assert (unit, source) == (measure.unit, measure.source or "this project")
