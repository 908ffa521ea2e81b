"""Missing extras, and the command that installs them, for each way in which this copy can have been installed."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attention_patterns.errors import MissingExtraError
from attention_patterns.programs.extras import install_command, name_missing_extra, require

GIT = {"vcs": "git", "commit_id": "4c1f0e2"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Records an installation before the real one, in the files that installers write."""

    def record(installer, origin=None):
        folder = tmp_path / "site-packages" / "attention_patterns-0.1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: attention-patterns\nVersion: 0.1.0\n")
        (folder / "INSTALLER").write_text(f"{installer}\n")
        if origin is not None:
            (folder / "direct_url.json").write_text(json.dumps(origin))
        monkeypatch.syspath_prepend(folder.parent)

    return record


@pytest.fixture
def activated(monkeypatch):
    """The environment of this Python, activated as its script does."""
    monkeypatch.setattr(sys, "executable", os.path.join(sys.prefix, "bin", "python"))  # noqa: PTH118  no link followed
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    monkeypatch.setenv("PATH", os.path.join(sys.prefix, "bin"), prepend=os.pathsep)  # noqa: PTH118


@pytest.mark.parametrize(
    ("installer", "command"),
    [("pip", "python -m pip install"), ("uv", "uv pip install"), ("conda", "python -m pip install")],
)
@pytest.mark.parametrize(
    ("origin", "arguments"),
    [
        (None, "'attention-patterns[models]'"),
        (
            {"url": "file:///my%20wheels/attention_patterns-0.1.0-py3-none-any.whl", "archive_info": {}},
            "'attention-patterns[models] @ file:///my%20wheels/attention_patterns-0.1.0-py3-none-any.whl'",
        ),
        ({"url": "file:///src/tool", "dir_info": {}}, "'attention-patterns[models] @ file:///src/tool'"),
        ({"url": "file:///src/my%20tool", "dir_info": {"editable": True}}, "--editable '/src/my tool[models]'"),
        (
            {"url": "https://example.org/tool.git", "vcs_info": GIT},
            "'attention-patterns[models] @ git+https://example.org/tool.git@4c1f0e2'",
        ),
        (
            {
                "url": "ssh://git@example.org/a.git",
                "vcs_info": GIT | {"requested_revision": "v1"},
                "subdirectory": "sub",
            },
            "'attention-patterns[models] @ git+ssh://git@example.org/a.git@v1#subdirectory=sub'",
        ),
    ],
)
def test_the_command_is_that_of_the_installation(installed, activated, installer, command, origin, arguments):
    installed(installer, origin)
    assert install_command("models") == f"{command} {arguments}"


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_an_environment_that_is_not_active_is_named(installed, monkeypatch, installer):
    installed(installer, {"url": "file:///o'neill", "dir_info": {"editable": True}})
    monkeypatch.setattr(sys, "executable", "/my environments/one/bin/python")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    front = {
        "pip": ["/my environments/one/bin/python", "-m", "pip", "install"],
        "uv": ["uv", "pip", "install", "--python", "/my environments/one/bin/python"],
    }[installer]
    assert shlex.split(install_command("ray")) == [*front, "--editable", "/o'neill[ray]"]


CHECKOUT = Path(__file__).parents[2]
ASK = "from attention_patterns.programs.extras import install_command; print(install_command('ray'))"


@pytest.mark.parametrize("beside_another", [False, True])
def test_a_checkout_on_the_path_is_installed_as_it_lies(tmp_path, beside_another):
    """The command of an index would install another copy, whether one is there already or not."""
    if beside_another:
        (tmp_path / "attention_patterns").mkdir()
        info = tmp_path / "attention_patterns-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.4\nName: attention-patterns\nVersion: 0.1.0\n")
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for path in Path(np.__file__).parents[1].iterdir():  # all that is installed here, but for this distribution
        if "attention_patterns" not in path.name:
            (libraries / path.name).symlink_to(path)
    paths = [str(CHECKOUT / "classifier"), str(tmp_path), str(libraries)]
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", f"import sys; sys.path[:0] = {paths}; {ASK}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shlex.split(done.stdout)[-2:] == ["--editable", f"{CHECKOUT}[ray]"]


def test_a_missing_package_is_answered_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError) as raised, name_missing_extra("models", needed_by="--model"):
        import torch  # noqa: F401, PLC0415
    assert (
        str(raised.value) == f"--model needs the extra 'models' (torch is not installed): {install_command('models')}"
    )
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)
    require("models", "numpy", needed_by="--model")
    with pytest.raises(MissingExtraError, match=r"torch is not installed"):
        require("models", "numpy", "torch", needed_by="--model")


@pytest.mark.parametrize("error", [ModuleNotFoundError("gone"), ModuleNotFoundError(name="attention_patterns.gone")])
def test_what_no_extra_would_mend_is_raised_as_it_is(error):
    with pytest.raises(ModuleNotFoundError) as raised, name_missing_extra("models", needed_by="--model"):
        raise error
    assert raised.value is error
