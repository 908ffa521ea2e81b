"""How fast nets answer: ``python -m attention_patterns_training.evaluation.speed`` measures designs and int8 variants against the plain reading.

All in one run of onnxruntime on the same images, rounds taken in turns, medians; the plain reading of the paper is 8
convolutions of 16-16-32-32-64-64-128-128 channels on 64 x 64 pixels, stride 2 every second.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich import print as show
from sklearn.metrics import f1_score

from attention_patterns.bundle import BUNDLED, ModelBundle
from attention_patterns_training.evaluation.ablation import ALTERNATIVES, PLAINLY, answered
from attention_patterns_training.evaluation.card import write_card
from attention_patterns_training.evaluation.results import write_section
from attention_patterns_training.labels.dataset import LabelledMaps, read_dataset
from attention_patterns_training.net.examples import images_of
from attention_patterns_training.net.export import export
from attention_patterns_training.net.net import PatternNet

ROUNDS, BATCH = 15, 36  # maps a batch, as in serving


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Images of training maps, from which static quantisation takes the ranges of activations."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter([{"images": part} for part in np.array_split(images, max(1, len(images) // BATCH))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None at the end."""
        return next(self._batches, None)


def _int8(bundle: ModelBundle, data: LabelledMaps, folder: Path) -> dict[str, Path]:
    """The bundled net quantised dynamically and statically."""
    prepared = folder / "prepared.onnx"
    quant_pre_process(bundle.model_path, prepared, skip_symbolic_shape=True)  # it trips over the pooling
    dynamic, static = folder / "dynamic.onnx", folder / "static.onnx"
    quantize_dynamic(prepared, dynamic, weight_type=QuantType.QUInt8)
    images = images_of(data.part("train").maps[::6], bundle.image_size).numpy()
    quantize_static(prepared, static, _Images(images), quant_format=QuantFormat.QDQ, per_channel=True)
    return {"int8, dynamic": dynamic, "int8, static": static}


def _session(path: Path) -> Any:
    """A session on one core, as in serving."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(sessions: dict[str, tuple[Any, np.ndarray]]) -> dict[str, float]:
    """Maps a second of each session, the median of rounds in which all take their turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, (session, images) in sessions.items():
            start = time.perf_counter()
            for _ in range(4):
                session.run(["probabilities"], {"images": images})
            seconds[name].append(time.perf_counter() - start)
    return {name: 4 * BATCH / float(np.median(times)) for name, times in seconds.items()}


def main(keep: Annotated[bool, typer.Option("--keep", help="keep the figures for the card")] = False) -> None:
    """Prints maps a second and ratios, and the validation macro-F1 of the int8 variants."""
    bundle, data = ModelBundle.read(BUNDLED), read_dataset()
    shipped = ALTERNATIVES["shipped"].design
    with tempfile.TemporaryDirectory() as scratch:
        bundled = {"shipped": bundle.model_path} | _int8(bundle, data, Path(scratch))
        models = {name: (path, shipped) for name, path in bundled.items()}
        for number, design in enumerate({recipe.design for recipe in ALTERNATIVES.values()} - {shipped}):
            folder = Path(scratch) / str(number)
            export(PatternNet(design).eval(), design, folder, temperature=1.0, dataset_sha256="")
            models[str(design)] = (folder / "model.onnx", design)
        rng = np.random.default_rng(0)
        sizes = {design.image_size for _, design in models.values()}
        drawn = {size: rng.integers(0, 256, (BATCH, 3, size, size), np.uint8) for size in sizes}
        sessions = {name: (_session(path), drawn[design.image_size]) for name, (path, design) in models.items()}
        rates = measure(sessions)
        found = {name: {"maps_per_second": rates[name]} | _figures(sessions[name][0], path, data, shipped.image_size)
                 for name, path in bundled.items()}  # fmt: skip
    for name, recipe in ALTERNATIVES.items():
        rate = rates["shipped" if recipe.design == shipped else str(recipe.design)]
        found.setdefault(name, {"maps_per_second": rate if recipe.distilled else rate / recipe.nets})
    for name, one in found.items():
        one["ratio"] = one["maps_per_second"] / found[PLAINLY]["maps_per_second"]
        show(
            f"{name}: {one['maps_per_second']:,.0f} maps/s, {one['ratio']:.2f} of the plain reading"
            + (f", macro-F1 {one['macro_f1']:.3f}, {one['bytes']:,} bytes" if "bytes" in one else "")
        )
    if keep:
        write_section("speed", found)
        write_card()


def _figures(session: Any, path: Path, data: LabelledMaps, image_size: int) -> dict[str, float]:
    """Validation macro-F1 and size of a model file."""
    validation = data.part("validation")
    (found,) = session.run(["probabilities"], {"images": images_of(validation.maps, image_size).numpy()})
    truth = validation.table["pattern"].to_numpy(str)
    return {"macro_f1": f1_score(truth, answered(found, validation), average="macro"), "bytes": path.stat().st_size}


if __name__ == "__main__":
    typer.run(main)
