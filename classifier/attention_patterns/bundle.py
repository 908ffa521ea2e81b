"""The model bundle: a folder of ``model.onnx``, ``bundle.json`` and ``MODEL_CARD.md``."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attention_patterns.errors import BundleError
from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.rendering import CHANNELS, RENDERING_VERSION

BUNDLED = Path(__file__).parent / "assets" / "model"


@dataclass(frozen=True)
class ModelBundle:
    """A trained net and what belongs to it.

    Attributes:
        folder: Folder that the bundle was read from.
        name: Name of the model.
        version: Version of the model, semantic.
        sha256: SHA-256 of ``model.onnx``, hexadecimal.
        image_size: Pixels per side of the images that the net reads.
        rendering_version: Version of the rendering that the net was trained with.
        uncertain_below: Probability below which an answer is marked uncertain, 0 to 1.
        dataset_sha256: SHA-256 of the labels that the net was trained on, hexadecimal.
        metrics: Figure -> value, as measured when the bundle was exported.
        reference: Feature -> its nine deciles over the training maps, against which incoming maps are compared; empty
            in a bundle without them.
    """

    folder: Path
    name: str
    version: str
    sha256: str
    image_size: int
    rendering_version: int
    uncertain_below: float
    dataset_sha256: str
    metrics: Mapping[str, float]
    reference: Mapping[str, tuple[float, ...]]

    @classmethod
    def read(cls, folder: Path | None = None) -> "ModelBundle":
        """Reads and checks a bundle, the bundled model by default.

        Raises:
            BundleError: A file is missing or damaged, or this version renders differently.
        """
        folder = BUNDLED if folder is None else Path(folder)
        try:
            content: dict[str, Any] = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
            actual = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
        except (OSError, ValueError) as error:
            raise BundleError(f"model bundle {folder} cannot be read: {error}") from error
        expected = {
            "classes": PATTERN_NAMES.tolist(),
            "channels": CHANNELS,
            "rendering_version": RENDERING_VERSION,
            "sha256": actual,
        }
        for key, value in expected.items():
            if content.get(key) != value:
                raise BundleError(f"model bundle {folder}: {key} is {content.get(key)!r}, expected {value!r}")
        try:
            return cls(
                folder=folder,
                name=str(content["name"]),
                version=str(content["version"]),
                sha256=actual,
                image_size=int(content["image_size"]),
                rendering_version=int(content["rendering_version"]),
                uncertain_below=float(content["uncertain_below"]),
                dataset_sha256=str(content["dataset_sha256"]),
                metrics=MappingProxyType({str(k): float(v) for k, v in content["metrics"].items()}),
                reference=MappingProxyType(
                    {str(k): tuple(float(edge) for edge in v) for k, v in content.get("reference", {}).items()}
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"model bundle {folder}: bundle.json has no valid {error}") from error

    @property
    def model_path(self) -> Path:
        """The file of the net, in ONNX."""
        return self.folder / "model.onnx"
