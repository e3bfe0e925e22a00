"""Pairs with everything in them that a pass can meet, and what two passes have to agree on."""

import math

import ml_dtypes
import numpy as np

from pytest_falsify.compare.rows import INTEGERS
from pytest_falsify.compare.statistics import SUMS

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
LENGTH = 33


def pair(dtype):
    """Return an oracle and a subject, (9, LENGTH), with strays, equal rows and both zeros."""
    generator = np.random.default_rng(1)
    x = generator.standard_normal((9, LENGTH))
    y = x + 1e-2 * generator.standard_normal(x.shape)
    x, y = x.astype(dtype), y.astype(dtype)
    x[1, 2], y[1, 2] = math.inf, -math.inf
    x[2, 3] = y[2, 3] = -math.inf
    x[3, 4] = y[3, 4] = math.nan
    y[4, 5], x[4, 5] = -3.0, 3.0
    y[5] = x[5]
    x[6], y[6] = 0.0, -0.0
    return x, y


def on(place, array):
    """Return an array as a torch tensor on a device."""
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(place)
    return torch.from_numpy(array).to(place)


def assert_agree(expected, found, dtype):
    """Hold two passes over ``pair`` against each other: facts exactly, sums within bounds."""
    for name in INTEGERS:
        if name != "where":
            assert expected.column(name).tolist() == found.column(name).tolist(), name
    bound = 1e-12 if dtype is np.float64 else 1e-5
    for name in (*SUMS, "max_abs_d"):
        scale = expected.column("sum_x2") + expected.column("sum_y2") + 1
        assert (np.abs(expected.column(name) - found.column(name)) <= bound * scale).all(), name
    assert found.column("where")[[1, 3]].tolist() == [2, 4]
