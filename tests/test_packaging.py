"""The wheel in an empty environment, beside a user's files of any name; and the lowest versions are those tested."""

import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from zipfile import ZipFile

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FIRST_EXAMPLE, FIRST_OUTPUT = re.search(r"```python\n(.*?)```\n```text\n(.*?)```", README, re.DOTALL).groups()
LOCK = ROOT / "requirements/build.txt"
BUILD = (Path(sys.executable).with_name("uv"), "build", "--wheel", "--require-build-hashes")
BUILD += ("--preview-features", "build-dependency-hashes", "--python", sys.executable)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as it is published."""
    folder = tmp_path_factory.mktemp("wheel")
    run(*BUILD, "--build-constraints", LOCK, "--out-dir", folder, folder=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs of an environment that holds the wheel and what it depends on without extras."""
    environment, uv = tmp_path_factory.mktemp("environment"), Path(sys.executable).with_name("uv")
    run(uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, environment, folder=ROOT)
    pins = environment / "pins.txt"
    locked = (ROOT / "requirements/dev.txt").read_text()
    pins.write_text("\n".join(re.findall(r"^[a-z0-9-]+==[^\\\\\n]+", locked, re.MULTILINE)))
    python = environment / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--python", python, "--constraint", pins, wheel, folder=ROOT)
    return environment / "bin"


def run(*command, folder):
    done = start(*command, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(*command, folder):
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [*map(str, command)], check=False, cwd=folder, env=clean, capture_output=True, text=True, timeout=300
    )


def test_a_build_by_other_packages_than_the_locked_ones_is_refused(tmp_path):
    tampered = tmp_path / "build.txt"
    tampered.write_text(re.sub("sha256:.", "sha256:f", LOCK.read_text()))
    done = start(*BUILD, "--build-constraints", tampered, "--out-dir", tmp_path, folder=ROOT)
    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_the_lock_of_the_build_is_that_of_its_backend():
    assert set(PROJECT["build-system"]["requires"]) <= set(PROJECT["dependency-groups"]["build"])


def test_the_bill_of_materials_is_the_lock_of_the_service(tmp_path):
    """By the command of ``make sbom``; valid CycloneDX, with each package, its version and its hashes."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    (command,) = re.findall(r"^\t\$\(RUN\) (.*cyclonedx_py.*)$", makefile, re.MULTILINE)
    file = tmp_path / "sbom.json"
    run(sys.executable, *command.replace("dist/sbom.cdx.json", str(file)).split(), folder=ROOT)
    bill = json.loads(file.read_text())
    errors = JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"])).validate_str(file.read_text())
    assert errors is None
    lock = (ROOT / "requirements/serve.txt").read_text()
    pins = set(re.findall(r"^([a-z0-9-]+)==([^\s\\;]+)", lock, re.MULTILINE))
    assert {(part["name"], part["version"]) for part in bill["components"]} == pins
    parts = [bill["metadata"]["component"], *bill["components"]]
    assert (parts[0]["name"], parts[0]["version"]) == ("attention-patterns", PROJECT["project"]["version"])
    listed = {
        sha["content"] for part in parts[1:] for reference in part["externalReferences"] for sha in reference["hashes"]
    }
    assert listed == set(re.findall("--hash=sha256:([0-9a-f]{64})", lock))


def test_the_wheel_holds_library_and_service_alone(wheel):
    packages = ["classifier/attention_patterns", "service/attention_patterns_service"]
    files = {
        path.relative_to((ROOT / package).parent).as_posix()
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name} == files
    assert {"attention_patterns/assets/model/model.onnx", "attention_patterns/py.typed"} <= files


def test_the_first_example_runs_beside_files_of_any_name(installed, tmp_path):
    for name in ("classifier", "service", "training"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')\n")
    (tmp_path / "example.py").write_text(FIRST_EXAMPLE)
    assert run(installed / "python", "example.py", folder=tmp_path) == FIRST_OUTPUT


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["attention-serve"], "attention-serve needs the extra 'service'"),
        (["attention-label", "--help"], "attention-label needs the extra 'label'"),
        (["python", "-c", "from attention_patterns_service import Client"], "needs the extra 'service'"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_adds_it(installed, tmp_path, command, sentence):
    done = start(installed / command[0], *command[1:], folder=tmp_path)
    assert done.returncode != 0
    (last,) = done.stderr.splitlines()[-1:]
    assert sentence in last
    assert re.search(r"uv pip install --python \S+ 'attention-patterns\[(service|label)\] @ file://.*\.whl'$", last)
    assert ("Traceback" in done.stderr) == (command[0] == "python")


def test_the_lowest_versions_promised_are_those_that_make_test_lowest_installs():
    extras, groups = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
    promised = [*PROJECT["project"]["dependencies"], *chain(*extras.values()), *groups["test"]]
    pinned = re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements/lowest.txt").read_text(), re.MULTILINE)
    for requirement in promised:
        name, bound = re.fullmatch(r"([a-z0-9-]+)(?:\[.*\])?(?:[>=]=([0-9.]+))?.*", requirement).groups()
        if name != "attention-patterns":
            assert any(pin == name and is_release(version, bound) for pin, version in pinned), requirement


def is_release(version, bound):
    """Whether a version is the bound, or its first release: 3.2.0 of 3.2."""
    return version == bound or version.removeprefix(bound).strip(".0") == ""
