"""The pass on a CUDA device says what the plain one says, and leaves the tensors where they are.

Skipped where there is no device: ``make gpu`` on a machine that has one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "compare"))
from compare_pairs import DTYPES, LENGTH, assert_agree, on, pair

from pytest_falsify.compare import device
from pytest_falsify.compare.kernels import pair_sums

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
COPIES = 24
"""How many float64 or int64 copies of a chunk may be alive at once, at most."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [64, 1 << 22])
def test_facts_are_exact_and_sums_within_bounds(dtype, chunk, monkeypatch):
    monkeypatch.setattr(device, "CHUNK", chunk)
    x, y = pair(dtype)
    found = pair_sums(on("cuda", x), on("cuda", y), row_length=LENGTH)
    assert_agree(pair_sums(x, y, row_length=LENGTH), found, dtype)


def test_a_large_pair_needs_the_memory_of_a_chunk_and_no_more():
    x = torch.randn(1 << 27, device="cuda")
    y = x + 1e-3
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    total = pair_sums(x, y, row_length=4096).total()
    assert torch.cuda.max_memory_allocated() - before < COPIES * 8 * device.CHUNK
    assert total.n == x.numel()
    assert total.bias == pytest.approx(1e-3, rel=1e-2)


def test_tensors_on_two_devices_are_refused():
    x, y = pair(np.float32)
    with pytest.raises(device.AlignmentError, match="cuda"):
        pair_sums(on("cuda", x), on("cpu", y), row_length=LENGTH)
