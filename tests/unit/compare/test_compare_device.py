"""The pass over torch tensors says what the plain one says, wherever they lie."""

import numpy as np
import pytest
from compare_pairs import DTYPES, LENGTH, assert_agree, on, pair

from pytest_falsify.compare import device
from pytest_falsify.compare.device import pair_sums_on_device
from pytest_falsify.compare.kernels import pair_sums
from pytest_falsify.errors import AlignmentError

torch = pytest.importorskip("torch", reason="tensors on a device need the optional part [hf]")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [64, 1 << 22])
def test_facts_are_exact_and_sums_within_bounds(dtype, chunk, monkeypatch):
    monkeypatch.setattr(device, "CHUNK", chunk)
    x, y = pair(dtype)
    found = pair_sums_on_device(on("cpu", x), on("cpu", y), row_length=LENGTH)
    assert_agree(pair_sums(x, y, row_length=LENGTH), found, dtype)


def test_one_function_measures_arrays_and_tensors():
    x, y = pair(np.float32)
    found = pair_sums(on("cpu", x), on("cpu", y), row_length=LENGTH)
    assert_agree(pair_sums(x, y, row_length=LENGTH), found, np.float32)
    with pytest.raises(AlignmentError):
        pair_sums(on("cpu", x), on("cpu", y[:2]), row_length=LENGTH)


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
