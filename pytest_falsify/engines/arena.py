"""Memory for the copies that runs leave behind."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

SMALLEST, LARGEST = 1 << 20, 8 << 20
MOST_KEPT = 256 << 20
"""How many bytes are kept for later runs, once nobody holds an array in them."""
ALIGNMENT = 64


@dataclass(slots=True)
class _Block:
    """Memory that one run after the other may use."""

    memory: Array
    lease: ref[Array] | None = None

    def leased(self) -> Array:
        """Return the memory as an array which lives as long as one that is a part of it."""
        # Through a buffer: of an array of an array, parts would hold the former and not the latter.
        found = np.frombuffer(self.memory.data, np.uint8)
        self.lease = ref(found)
        return found

    @property
    def is_free(self) -> bool:
        return self.lease is None or self.lease() is None


@dataclass(slots=True)
class Arena:
    """Copies arrays into blocks, each of a run twice as large as the one before.

    One by one the copies would lie scattered between what a model allocates and frees, and the gaps
    would be lost: a third of what is kept. Blocks whose copies are all gone are used again, for
    touching fresh memory costs more than copying. What is given out is an array and no tensor: each
    tensor that stays leaves small things between what the model frees, which then cannot be joined.
    """

    _blocks: list[_Block] = field(default_factory=list)
    _open: Array | None = None
    _used: int = 0
    _size: int = SMALLEST

    def begin(self) -> None:
        """Begin a run: it shares no block with another, so that they can be freed one by one."""
        self._open, self._size = None, SMALLEST

    def copy(self, values: Array) -> Array:
        """Return a copy in C order."""
        found = self.empty(values.shape, values.dtype)
        np.copyto(found, values)
        return found

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array that nobody else has, in C order, with nothing in it yet."""
        return self._place(prod(shape) * dtype.itemsize).view(dtype).reshape(shape)

    def _place(self, count: int) -> Array:
        """Return so many bytes that nobody else has."""
        if self._open is None or self._used + count > len(self._open):
            self._open, self._used = self._next(max(self._size, count)).leased(), 0
            self._size = min(2 * self._size, LARGEST)
        found = self._open[self._used : self._used + count]
        self._used += -(-count // ALIGNMENT) * ALIGNMENT
        return found

    def _next(self, size: int) -> _Block:
        """Return a block of a size: one that nobody uses any more, or a new one."""
        for block in self._blocks:
            if len(block.memory) == size and block.is_free:
                return block
        block = _Block(_fresh(size))
        self._blocks.append(block)
        while sum(len(each.memory) for each in self._blocks) > MOST_KEPT:
            self._blocks.pop(0)
        return block


def _fresh(size: int) -> Array:
    """Return memory of the system's own, which nothing that a model frees can stand in between.

    Not of huge pages: they would be resident to their ends.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.empty(size, np.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)
