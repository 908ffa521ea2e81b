"""Equality of results to the last bit, for tests."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import numpy as np


def assert_equal(one, other, path="result"):
    """Two dataclasses hold the same: arrays of one type, shape and content (NaN equals NaN), mappings of one order."""
    if is_dataclass(one):
        assert type(one) is type(other), path
        for field in fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}")
    elif isinstance(one, Mapping):
        assert list(one) == list(other), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}[{key!r}]")
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), path
        np.testing.assert_array_equal(one, other, err_msg=path)
    elif isinstance(one, tuple):
        assert len(one) == len(other), path
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_equal(left, right, f"{path}[{number}]")
    else:
        assert type(one) is type(other), path
        assert one == other, path
