"""The model bundle: a folder of ``model.onnx``, ``bundle.json`` and ``MODEL_CARD.md``."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from attention_patterns.errors import BundleError
from attention_patterns.patterns import PATTERN_NAMES
from attention_patterns.programs.outside_files import JsonObject, read_regular_file
from attention_patterns.rendering import CHANNELS, RENDERING_VERSION

BUNDLED = Path(__file__).parent / "assets" / "model"
_MOST_DESCRIPTION_BYTES, _MOST_NET_BYTES = 1 << 20, 256 << 20
_LONGEST_NAME = 100  # characters
_DECILES = 9


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
            return cls._read(folder)
        except OSError as error:
            raise BundleError(f"model bundle {folder} cannot be read: {error}") from error
        except ValueError as error:
            raise BundleError(f"model bundle {folder}: {error}") from error

    @classmethod
    def _read(cls, folder: Path) -> "ModelBundle":
        content = JsonObject.read(folder / "bundle.json", most=_MOST_DESCRIPTION_BYTES)
        expected = {
            "classes": PATTERN_NAMES.tolist(),
            "channels": CHANNELS,
            "rendering_version": RENDERING_VERSION,
            "sha256": hashlib.sha256(_read_net(folder)).hexdigest(),
        }
        for key, value in expected.items():
            content.equal(key, value)
        metrics, reference = content.mapping("metrics"), content.mapping("reference", missing={})
        return cls(
            folder=folder,
            name=content.text("name", longest=_LONGEST_NAME),
            version=content.text("version", longest=_LONGEST_NAME),
            sha256=content.sha256("sha256"),
            image_size=content.integer("image_size", least=8, most=512),
            rendering_version=RENDERING_VERSION,
            uncertain_below=content.number("uncertain_below", least=0, most=1),
            dataset_sha256=content.sha256("dataset_sha256"),
            metrics=MappingProxyType({figure: metrics.number(figure) for figure in metrics.values}),
            reference=MappingProxyType(
                {feature: reference.numbers(feature, count=_DECILES) for feature in reference.values}
            ),
        )

    def read_net(self) -> bytes:
        """Returns the content of ``model.onnx``.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not the file that the bundle was read with.
        """
        net = _read_net(self.folder)
        if hashlib.sha256(net).hexdigest() != self.sha256:
            raise ValueError("the file was replaced while the bundle was read")
        return net

    @property
    def model_path(self) -> Path:
        """The file of the net, in ONNX."""
        return self.folder / "model.onnx"


def _read_net(folder: Path) -> bytes:
    return read_regular_file(folder / "model.onnx", most=_MOST_NET_BYTES)
