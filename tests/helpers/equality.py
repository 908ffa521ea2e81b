"""Equality of results to the last bit, for tests."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import numpy as np


def assert_equal(first, second, path="result"):
    """Asserts that two results are equal: arrays in type, shape and content (NaN equals NaN), mappings in order too."""
    if is_dataclass(first):
        assert type(first) is type(second), path
        for field in fields(first):
            assert_equal(getattr(first, field.name), getattr(second, field.name), f"{path}.{field.name}")
    elif isinstance(first, Mapping):
        assert list(first) == list(second), path
        for key in first:
            assert_equal(first[key], second[key], f"{path}[{key!r}]")
    elif isinstance(first, np.ndarray):
        assert (first.dtype, first.shape) == (second.dtype, second.shape), path
        np.testing.assert_array_equal(first, second, err_msg=path)
    elif isinstance(first, tuple):
        assert len(first) == len(second), path
        for number, (left, right) in enumerate(zip(first, second, strict=True)):
            assert_equal(left, right, f"{path}[{number}]")
    else:
        assert type(first) is type(second), path
        assert first == second, path
