"""Maps drawn by rule, for tests: one pattern at any length, over an even ground."""

import numpy as np

from attention_patterns import Pattern


def draw(pattern, length, ground=0.3):
    """Returns a map float32 [L, L] whose rows hold ``ground`` evenly and the rest in the pattern."""
    weights, rows = np.zeros((length, length)), np.arange(length)
    if pattern in {Pattern.VERTICAL, Pattern.VERTICAL_DIAGONAL}:
        weights[:, 0] += 1
    if pattern in {Pattern.DIAGONAL, Pattern.VERTICAL_DIAGONAL}:
        weights[rows, np.maximum(rows - 1, 0)] += 1
    if pattern is Pattern.BLOCK:
        half = length // 2
        weights[:half, :half] = weights[half:, half:] = 1
    if pattern is Pattern.HETEROGENEOUS:
        weights[:] = np.random.default_rng(length).lognormal(0, 1.5, (length, length))
    weights /= weights.sum(axis=1, keepdims=True)
    return (ground / length + (1 - ground) * weights).astype(np.float32)


def random_maps(*shape, seed=0, sharpness=2.0):
    """Returns the softmax of random logits, float32, whose rows sum to 1; the last two axes of ``shape`` are L."""
    logits = np.random.default_rng(seed).normal(0, sharpness, shape)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def bfloat16_bits(values):
    """Returns float32 values cut to bfloat16, as uint16."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
