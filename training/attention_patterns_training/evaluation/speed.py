"""The speed of nets: designs and int8 variants against the plain reading of the paper.

Everything is measured in one run of onnxruntime on the same images, rounds taken in turns, medians; the plain reading
of the paper is 8 convolutions of 16-16-32-32-64-64-128-128 channels on 64 x 64 pixels, stride 2 every second.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.metrics import f1_score

from attention_patterns.bundle import BUNDLED, ModelBundle
from attention_patterns.programs.temporary_folders import temporary_folder
from attention_patterns.programs.terminal import show
from attention_patterns_training.evaluation.ablation import ALTERNATIVES, PLAINLY, answer_names
from attention_patterns_training.evaluation.card import write_card
from attention_patterns_training.evaluation.results import write_section
from attention_patterns_training.labels.dataset import LabelledMaps, read_dataset
from attention_patterns_training.net.examples import render_all
from attention_patterns_training.net.export import export
from attention_patterns_training.net.net import Design, PatternNet

ROUNDS, BATCH = 15, 36  # maps per batch, as in serving


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """The images of training maps from which static quantisation takes the ranges of activations."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = iter([{"images": batch} for batch in np.array_split(images, max(1, len(images) // BATCH))])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Returns the next batch, or None at the end."""
        return next(self._batches, None)


@dataclass(frozen=True)
class _Model:
    """A model file, opened on one core as in serving, and the design of its net."""

    path: Path
    design: Design
    session: Any

    @classmethod
    def open(cls, path: Path, design: Design) -> "_Model":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return cls(path, design, onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns probabilities float32 [maps, 5]."""
        (probabilities,) = self.session.run(["probabilities"], {"images": images})
        return np.asarray(probabilities)


def _quantise(bundle: ModelBundle, data: LabelledMaps, folder: Path) -> dict[str, Path]:
    """Quantises the bundled net dynamically and statically; returns the files by name."""
    prepared = folder / "prepared.onnx"
    quant_pre_process(bundle.model_path, prepared, skip_symbolic_shape=True)  # it trips over the pooling
    dynamic, static = folder / "dynamic.onnx", folder / "static.onnx"
    quantize_dynamic(prepared, dynamic, weight_type=QuantType.QUInt8)
    images = render_all(data.split("train").maps[::6], bundle.image_size).numpy()
    quantize_static(prepared, static, _Images(images), quant_format=QuantFormat.QDQ, per_channel=True)
    return {"int8, dynamic": dynamic, "int8, static": static}


def _rates(models: dict[str, _Model]) -> dict[str, float]:
    """Measures maps per second of each model, the median of rounds in which all take their turn."""
    rng = np.random.default_rng(0)
    sizes = {model.design.image_size for model in models.values()}
    images = {size: rng.integers(0, 256, (BATCH, 3, size, size), np.uint8) for size in sizes}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.perf_counter()
            for _ in range(4):
                model.run(images[model.design.image_size])
            seconds[name].append(time.perf_counter() - start)
    return {name: 4 * BATCH / float(np.median(times)) for name, times in seconds.items()}


def measure_speed(*, keep: bool = False) -> None:
    """Prints maps per second and ratios, and the validation macro-F1 of the int8 variants.

    Args:
        keep: Whether the figures are kept for the model card.
    """
    bundle, data = ModelBundle.read(BUNDLED), read_dataset()
    shipped = ALTERNATIVES["shipped"].design
    with temporary_folder("attention-speed-") as scratch:
        files = {"shipped": bundle.model_path} | _quantise(bundle, data, scratch)
        models = {name: _Model.open(path, shipped) for name, path in files.items()}
        for number, design in enumerate({recipe.design for recipe in ALTERNATIVES.values()} - {shipped}):
            folder = scratch / str(number)
            export(PatternNet(design).eval(), design, folder, temperature=1.0, dataset_sha256="")
            models[str(design)] = _Model.open(folder / "model.onnx", design)
        rates = _rates(models)
        validation = data.split("validation")
        figures = {}
        for name in files:
            figures[name] = {"maps_per_second": rates[name]} | _accuracy_and_size(models[name], validation)
    for name, recipe in ALTERNATIVES.items():
        rate = rates["shipped" if recipe.design == shipped else str(recipe.design)]
        figures.setdefault(name, {"maps_per_second": rate if recipe.distil else rate / recipe.nets})
    for name, row in figures.items():
        row["ratio"] = row["maps_per_second"] / figures[PLAINLY]["maps_per_second"]
        show(
            f"{name}: {row['maps_per_second']:,.0f} maps/s, {row['ratio']:.2f} of the plain reading"
            + (f", macro-F1 {row['macro_f1']:.3f}, {row['bytes']:,} bytes" if "bytes" in row else "")
        )
    if keep:
        write_section("speed", figures)
        write_card()


def _accuracy_and_size(model: _Model, validation: LabelledMaps) -> dict[str, float]:
    """Returns the validation macro-F1 and the size of a model file."""
    probabilities = model.run(render_all(validation.maps, model.design.image_size).numpy())
    truth, answers = validation.table["pattern"].to_numpy(str), answer_names(probabilities, validation)
    return {"macro_f1": f1_score(truth, answers, average="macro"), "bytes": model.path.stat().st_size}
