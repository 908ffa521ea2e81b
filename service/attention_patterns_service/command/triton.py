"""``attention-serve triton FOLDER``: the net as a model of a Triton model repository.

Triton takes images and answers with probabilities, as the bundle's model does under the Open Inference Protocol;
rendering and measuring stay with the caller.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from attention_patterns.bundle import ModelBundle
from attention_patterns.errors import BundleError
from attention_patterns.patterns import PATTERNS
from attention_patterns.programs.foreign_text import print_path
from attention_patterns.programs.temporary_folders import temporary_folder
from attention_patterns.programs.whole_files import write_whole
from attention_patterns.rendering import CHANNELS
from attention_patterns_service.command.reports import errors_reported

_LARGEST_BATCH = 1024  # images: 7 MB
_CONFIG, _LABELS, _NET = Path("config.pbtxt"), Path("labels.txt"), Path("1/model.onnx")


def triton(
    folder: Annotated[Path, typer.Argument(help="Model repository; created if it does not exist.", metavar="FOLDER")],
    *,
    model_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the model bundle (default: the bundled one).", envvar="ATTENTION_SERVE_MODEL_DIR"),
    ] = None,
    instances: Annotated[int, typer.Option(help="Instances of the net, each on one core.", min=1)] = 2,
) -> None:
    """Exports the net into a Triton model repository.

    Prints the folder of the exported model, named after the bundle. An earlier export there is replaced.
    """
    with errors_reported("attention-serve triton"):
        print_path(export(ModelBundle.read(model_dir), folder, instances=instances))


def export(bundle: ModelBundle, folder: Path, *, instances: int = 2) -> Path:
    """Writes the net of ``bundle`` into the model repository ``folder``, in place of an earlier export of its name.

    Args:
        bundle: The bundle to export; the model gets its name.
        folder: The repository; created if it does not exist.
        instances: Number of instances of the net, each on one core.

    Returns:
        The model's folder, which never holds half an export.

    Raises:
        BundleError: The bundle's name cannot be that of a folder.
        FileExistsError: The model's folder exists and is not an export.
        OSError: The folder cannot be written.
    """
    if Path(bundle.name).name != bundle.name:
        raise BundleError(f"model bundle {bundle.folder} has the name {bundle.name!r}, expected the name of a folder")
    target = folder / bundle.name
    if target.exists() and not _is_exported(target):
        raise FileExistsError(f"{target} exists and is not an exported model; move it away or choose another FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".attention-partial-", parent=folder) as work:
        new, old = work / "new", work / "old"
        (new / _NET).parent.mkdir(parents=True)
        write_whole(new / _NET, bundle.model_path.read_bytes())
        write_whole(new / _LABELS, "".join(f"{pattern}\n" for pattern in PATTERNS))
        write_whole(new / _CONFIG, _config(bundle, instances))
        if target.exists():
            target.rename(old)
        new.rename(target)
    return target


def _is_exported(folder: Path) -> bool:
    files = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
    return files == {_CONFIG, _LABELS, _NET}


def _config(bundle: ModelBundle, instances: int) -> str:
    size, classes = bundle.image_size, len(PATTERNS)
    parameters = {
        "intra_op_thread_count": 1,  # instances run side by side instead
        "inter_op_thread_count": 1,
        "bundle_version": bundle.version,
        "bundle_sha256": bundle.sha256,
        "rendering_version": bundle.rendering_version,
        "uncertain_below": bundle.uncertain_below,
    }
    lines = [
        f"name: {json.dumps(bundle.name)}",
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {_LARGEST_BATCH}",
        f'input [{{ name: "images" data_type: TYPE_UINT8 dims: [{CHANNELS}, {size}, {size}] }}]',
        f'output [{{ name: "probabilities" data_type: TYPE_FP32 dims: [{classes}] label_filename: "{_LABELS}" }}]',
        f"instance_group [{{ kind: KIND_CPU count: {instances} }}]",
        "dynamic_batching {}",
        *(
            f'parameters {{ key: "{key}" value: {{ string_value: {json.dumps(str(value))} }} }}'
            for key, value in parameters.items()
        ),
    ]
    return "".join(f"{line}\n" for line in lines)
