"""Runs the net as every peer does: bytes of images in, bytes of probabilities out."""

import numpy as np
import onnxruntime

IMAGE = (3, 48, 48)
CLASSES = 5


class Net:
    """The net. Several threads may call it at once, each using one core, as in ``attention_patterns.session``."""

    def __init__(self, path: str) -> None:
        """Loads the ONNX file at ``path``."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: bytes) -> bytes:
        """Returns probabilities float32 [n, 5] of images uint8 [n, 3, 48, 48]."""
        array = np.frombuffer(images, np.uint8).reshape(-1, *IMAGE)
        (probabilities,) = self._session.run(["probabilities"], {"images": array})
        return bytes(probabilities)
