"""``python -m attention_patterns_service.command.triton FOLDER``: the net as a model of a Triton model repository.

Triton takes images and gives probabilities, as the bundle's model does under the Open Inference Protocol; rendering and
measuring stay with whoever asks it.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from attention_patterns.bundle import ModelBundle
from attention_patterns.errors import AttentionPatternsError, BundleError
from attention_patterns.patterns import PATTERNS
from attention_patterns.rendering import CHANNELS

_LARGEST_BATCH = 1024  # images: 7 MB
_CONFIG, _LABELS, _NET = Path("config.pbtxt"), Path("labels.txt"), Path("1/model.onnx")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def export(bundle: ModelBundle, folder: Path, *, instances: int = 2) -> Path:
    """Writes the net of ``bundle`` into the model repository ``folder``, in place of what was exported there before.

    Args:
        bundle: what to export; the model gets its name.
        folder: the repository; made where it is not there.
        instances: of the net, each on one core.

    Returns:
        The model's folder, which is never there in part.

    Raises:
        BundleError: the bundle's name is no name of a folder.
        FileExistsError: what stands at the model's place was not exported.
        OSError: it cannot be written.
    """
    if Path(bundle.name).name != bundle.name:
        raise BundleError(f"model bundle {bundle.folder} has name {bundle.name!r}, expected one that a folder can have")
    target = folder / bundle.name
    if target.exists() and not _is_exported(target):
        raise FileExistsError(f"{target} is not an exported model, and stays as it is")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", suffix=".partial", dir=folder) as work:
        new, old = Path(work) / "new", Path(work) / "old"
        (new / _NET).parent.mkdir(parents=True)
        (new / _NET).write_bytes(bundle.model_path.read_bytes())
        (new / _LABELS).write_text("".join(f"{pattern}\n" for pattern in PATTERNS), encoding="utf-8")
        (new / _CONFIG).write_text(_config(bundle, instances), encoding="utf-8")
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


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="The model repository; made where it is not there.")],
    *,
    model_dir: Annotated[Path | None, typer.Option(help="Model bundle; the bundled model by default.")] = None,
    instances: Annotated[int, typer.Option(help="Instances of the net, each on one core.", min=1)] = 2,
) -> None:
    """Exports the net into a Triton model repository."""
    try:
        typer.echo(export(ModelBundle.read(model_dir), folder, instances=instances))
    except (AttentionPatternsError, OSError) as error:
        typer.echo(f"service.triton: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
