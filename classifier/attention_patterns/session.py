"""The net at work: images in, probabilities out, run by onnxruntime."""

import os

import numpy as np

# From 1.29 on, onnxruntime reports to its makers unless this is set before it is loaded; this tool sends nothing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from numpy.typing import NDArray

from attention_patterns.bundle import ModelBundle
from attention_patterns.errors import BundleError
from attention_patterns.patterns import PATTERNS
from attention_patterns.per_process import PerProcess
from attention_patterns.rendering import CHANNELS


class NetSession:
    """A loaded net; several threads may call ``probabilities`` at once, each using one core."""

    def __init__(self, bundle: ModelBundle) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # callers run side by side instead, so that rendering and inference overlap
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised as well, and writing them would wait for a reader
        try:
            net = bundle.read_net()
            # A fork may come while a thread allocates, and the session's allocator would stay locked in the child.
            self._session = PerProcess(
                lambda: onnxruntime.InferenceSession(net, options, providers=["CPUExecutionProvider"])
            )
            self._probe(bundle.image_size)
        except Exception as error:  # a file from outside; onnxruntime's errors have no common base
            raise BundleError(f"{bundle.model_path} cannot be run: {error}") from error

    def _probe(self, size: int) -> None:
        """Refuses a net that does not answer probabilities to two images."""
        images = np.zeros((2, CHANNELS, size, size), np.uint8)
        images[1] = np.random.default_rng(0).integers(0, 256, images[1].shape)
        answer = self.probabilities(images)
        if answer.shape != (2, len(PATTERNS)):
            raise ValueError(f"the net answers shape {answer.shape} to two images, expected {(2, len(PATTERNS))}")
        if not ((answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=1e-3)):
            raise ValueError(f"the net answers {answer.tolist()}, expected probabilities that sum to 1")

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the probabilities float32 [maps, 5] of images uint8 [maps, 3, size, size]."""
        (output,) = self._session.get().run(["probabilities"], {"images": images})
        return np.asarray(output, np.float32)
