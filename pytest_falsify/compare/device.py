"""The same pass as in ``kernels`` for tensors that torch holds, where they lie.

Nothing but the sums leaves the device: one copy at the end. The counts are those of ``kernels``
exactly; the sums, in float64, to within a rounding, and their last bits may depend on the device.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from pytest_falsify.compare.rows import FLOATS, INTEGERS, RowSums
from pytest_falsify.errors import AlignmentError

CHUNK = 1 << 22
"""Values looked at together: a float64 copy of them is 32 MiB."""

BITS = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}


def pair_sums_on_device(x: Any, y: Any, *, row_length: int) -> RowSums:
    """Measure a pair of torch tensors of one shape, one float dtype and one device.

    Args:
        x: the oracle's values.
        y: the subject's values.
        row_length: how many consecutive values, in C order, make a row.

    Raises:
        AlignmentError: when shape, dtype or device differ, the dtype is not one of floats, or a row
            does not fit.
    """
    torch = import_module("torch")
    is_pair = (x.shape, x.dtype, x.device) == (y.shape, y.dtype, y.device)
    if not is_pair or not x.is_floating_point() or row_length < 1 or x.numel() % row_length:
        msg = (
            f"cannot be measured on a device in rows of {row_length}: "
            f"oracle {tuple(x.shape)} {x.dtype} {x.device}, "
            f"subject {tuple(y.shape)} {y.dtype} {y.device}"
        )
        raise AlignmentError(msg, expected="one shape, one float dtype, one device, whole rows")
    rows_x, rows_y = (each.detach().contiguous().view(-1, row_length) for each in (x, y))
    sums = RowSums.zeros(len(rows_x), row_length)
    step = max(1, CHUNK // row_length)
    with torch.no_grad():
        parts = [
            _measure(torch, rows_x[start : start + step], rows_y[start : start + step])
            for start in range(0, len(rows_x), step)
        ]
    if parts:
        sums.floats[:] = torch.cat([floats for floats, _ in parts], dim=1).cpu().numpy()
        sums.integers[:] = torch.cat([integers for _, integers in parts], dim=1).cpu().numpy()
    return sums


def _measure(torch: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Return floats (len(FLOATS), rows) and integers (len(INTEGERS), rows), on the device."""
    wide_x, wide_y = x.double(), y.double()
    is_finite_x, is_finite_y = wide_x.isfinite(), wide_y.isfinite()
    is_finite = is_finite_x & is_finite_y
    is_stray = ~is_finite & ~(wide_x == wide_y)
    bits_x, bits_y = (each.view(getattr(torch, BITS[each.element_size()])) for each in (x, y))
    a, b = (torch.where(is_finite, each, 0.0) for each in (wide_x, wide_y))
    d = b - a
    largest, place = d.abs().max(dim=1)
    facts = {
        "sum_x2": (a * a).sum(1),
        "sum_y2": (b * b).sum(1),
        "sum_d2": (d * d).sum(1),
        "sum_abs_d": d.abs().sum(1),
        "sum_d": d.sum(1),
        "sum_xd": (a * d).sum(1),
        "max_abs_d": largest,
        "n": torch.full_like(place, x.shape[1]),
        "finite": is_finite.sum(1),
        "nonfinite_x": (~is_finite_x).sum(1),
        "nonfinite_y": (~is_finite_y).sum(1),
        "nonfinite_mismatch": is_stray.sum(1),
        "mismatched": (bits_x != bits_y).sum(1),
        "max_ulp": _farthest(torch, bits_x, bits_y, is_finite),
        "where": torch.where(is_stray.any(1), is_stray.int().argmax(dim=1), place),
    }
    return tuple(torch.stack([facts[name] for name in names]) for names in (FLOATS, INTEGERS))


def _farthest(torch: Any, x: Any, y: Any, is_finite: Any) -> Any:
    """Return the largest number of floats between the pairs of each row, as ``kernels`` does."""
    largest = np.iinfo(np.int64).max
    magnitude = (1 << (8 * x.element_size() - 1)) - 1
    a, b = (torch.where(each < 0, -(each.long() & magnitude), each.long()) for each in (x, y))
    steps = torch.where(is_finite, (a - b).abs(), 0)
    # Only float64 values of opposite signs can be farther apart than int64 counts.
    is_beyond = is_finite & ((a < 0) != (b < 0)) & (a.abs() > largest - b.abs())
    return torch.where(is_beyond, largest, steps).amax(dim=1)
