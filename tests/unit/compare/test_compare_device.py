"""The pass over torch tensors says what the plain one says, wherever they lie."""

import math

import ml_dtypes
import numpy as np
import pytest

from pytest_falsify.compare import device
from pytest_falsify.compare.device import pair_sums_on_device
from pytest_falsify.compare.kernels import pair_sums
from pytest_falsify.compare.rows import INTEGERS
from pytest_falsify.compare.statistics import SUMS
from pytest_falsify.errors import AlignmentError

torch = pytest.importorskip("torch", reason="tensors on a device need the optional part [hf]")

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    ),
]
DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def on(place, array):
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(place)
    return torch.from_numpy(array).to(place)


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [64, 1 << 22])
def test_facts_are_exact_and_sums_within_bounds(place, dtype, chunk, monkeypatch):
    monkeypatch.setattr(device, "CHUNK", chunk)
    generator = np.random.default_rng(1)
    x = generator.standard_normal((9, 33))
    y = x + 1e-2 * generator.standard_normal(x.shape)
    x, y = x.astype(dtype), y.astype(dtype)
    x[1, 2], y[1, 2] = math.inf, -math.inf
    x[2, 3] = y[2, 3] = -math.inf
    x[3, 4] = y[3, 4] = math.nan
    y[4, 5], x[4, 5] = -3.0, 3.0
    y[5] = x[5]
    x[6], y[6] = 0.0, -0.0
    expected = pair_sums(x, y, row_length=33)
    found = pair_sums_on_device(on(place, x), on(place, y), row_length=33)
    for name in INTEGERS:
        if name != "where":
            assert expected.column(name).tolist() == found.column(name).tolist(), name
    bound = 1e-12 if dtype is np.float64 else 1e-5
    for name in (*SUMS, "max_abs_d"):
        scale = expected.column("sum_x2") + expected.column("sum_y2") + 1
        assert (np.abs(expected.column(name) - found.column(name)) <= bound * scale).all(), name
    assert found.column("where")[[1, 3]].tolist() == [2, 4]


def test_the_farthest_floats_are_as_far_as_the_counter_goes():
    x, y = (torch.tensor([value], dtype=torch.float64) for value in (1e308, -1e308))
    assert pair_sums_on_device(x, y, row_length=1).total().max_ulp == 2**63 - 1


@pytest.mark.parametrize(
    ("x", "y", "row_length"),
    [
        (torch.zeros(4), torch.zeros(2), 2),
        (torch.zeros(4), torch.zeros(4, dtype=torch.float64), 2),
        (torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), 2),
        (torch.zeros(4), torch.zeros(4), 3),
    ],
)
def test_what_cannot_be_measured_is_refused(x, y, row_length):
    with pytest.raises(AlignmentError):
        pair_sums_on_device(x, y, row_length=row_length)


def test_no_values_leave_no_rows():
    empty = torch.zeros((0, 4))
    assert pair_sums_on_device(empty, empty, row_length=4).total().is_empty
