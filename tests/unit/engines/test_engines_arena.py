"""Copies that are kept together: equal, apart, in few blocks, and freed with the last of them."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pytest_falsify.engines import arena as arena_module  # noqa: E402
from pytest_falsify.engines.arena import LARGEST, SMALLEST, Arena  # noqa: E402
from pytest_falsify.engines.arrays import as_numpy  # noqa: E402


@pytest.fixture
def blocks(monkeypatch):
    """The sizes of the blocks that are made, each with a weak reference."""
    made = []
    usual = arena_module._fresh

    def fresh(size):
        memory = usual(size)
        made.append((size, weakref.ref(memory)))
        return memory

    monkeypatch.setattr(arena_module, "_fresh", fresh)
    return made


def test_copies_have_the_bits_of_the_tensor_and_memory_of_their_own():
    arena = Arena()
    sources = [torch.arange(5), torch.randn(3, 4).T, torch.randn(7).bfloat16(), torch.zeros(0, 3)]

    copies = [arena.copy(as_numpy(each)) for each in sources]

    for source, copy in zip(sources, copies, strict=True):
        assert copy.dtype == as_numpy(source).dtype
        assert copy.shape == tuple(source.shape)
        assert copy.tobytes() == as_numpy(source).tobytes()
        assert copy.flags.c_contiguous
        assert copy.ctypes.data % copy.itemsize == 0
    copies[0].fill(9)
    assert copies[2].tobytes() == as_numpy(sources[2]).tobytes()


def test_blocks_grow_and_a_tensor_that_is_larger_gets_its_own(blocks):
    arena = Arena()
    kept = [arena.copy(np.zeros(SMALLEST // 8, np.float32)) for _ in range(60)]
    kept.append(arena.copy(np.zeros(LARGEST // 2, np.float32)))

    sizes = [size for size, _ in blocks]
    assert sizes == [
        SMALLEST << 0,
        SMALLEST << 1,
        SMALLEST << 2,
        LARGEST,
        LARGEST,
        LARGEST,
        LARGEST * 2,
    ]
    assert len(kept) == 61


def test_a_block_lives_as_long_as_an_array_of_it_and_no_longer(blocks):
    arrays = [Arena().copy(np.ones(8))]
    gc.collect()
    assert blocks[0][1]() is not None
    assert arrays[0].sum() == 8

    arrays.clear()
    gc.collect()
    assert blocks[0][1]() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_memory_is_used_again_once_no_array_holds_it_and_never_before(blocks, dtype):
    arena, source = Arena(), torch.ones(SMALLEST // 16, dtype=dtype)

    def run(value):
        arena.begin()
        return arena.copy(as_numpy(source * value)).reshape(2, -1)[1]

    held, dropped = run(1), run(2)
    again = [run(3)]
    assert len(blocks) == 3
    del dropped
    again += [run(4)]

    assert len(blocks) == 3
    assert [float(each[-1]) for each in (held, *again)] == [1, 3, 4]


def test_what_is_kept_for_later_is_bounded(blocks, monkeypatch):
    monkeypatch.setattr(arena_module, "MOST_KEPT", 3 * SMALLEST)
    arena = Arena()
    kept = []
    for _ in range(6):
        arena.begin()
        kept.append(arena.copy(np.ones(8)))

    kept.clear()
    gc.collect()

    assert sum(each() is not None for _, each in blocks) <= 3
