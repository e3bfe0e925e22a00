"""Memory for the copies that runs leave behind."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

if TYPE_CHECKING:
    import torch

    Array = np.ndarray[Any, Any]

SMALLEST, LARGEST = 1 << 20, 8 << 20
MOST_KEPT = 256 << 20
"""How many bytes are kept for later runs, once nobody holds an array in them."""
ALIGNMENT = 64


@dataclass(slots=True)
class _Block:
    """Memory that places are given out of, one after the other."""

    memory: Array
    used: int = 0
    places: list[ref[Array]] = field(default_factory=list)

    def has_room(self, count: int) -> bool:
        return self.used + count <= len(self.memory)

    def place(self, count: int) -> Array:
        found = self.memory[self.used : self.used + count]
        self.used += -(-count // ALIGNMENT) * ALIGNMENT
        # torch holds this very array as long as a tensor, or an array of one, has its memory.
        self.places.append(ref(found))
        return found

    @property
    def is_free(self) -> bool:
        return all(place() is None for place in self.places)


@dataclass(slots=True)
class Arena:
    """Copies tensors of the host into blocks, each of a run twice as large as the one before.

    One by one the copies would lie scattered between what a model allocates and frees, and the gaps
    would be lost: a third of what is kept. Blocks whose copies are all gone are used again, for
    touching fresh memory costs more than copying.
    """

    _blocks: list[_Block] = field(default_factory=list)
    _block: _Block | None = None
    _size: int = SMALLEST

    def begin(self) -> None:
        """Begin a run: it shares no block with another, so that they can be freed one by one."""
        self._block, self._size = None, SMALLEST

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy in C order."""
        import torch

        if self._block is None or not self._block.has_room(tensor.nbytes):
            self._block = self._next(max(self._size, tensor.nbytes))
            self._size = min(2 * self._size, LARGEST)
        place = torch.from_numpy(self._block.place(tensor.nbytes))
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)

    def _next(self, size: int) -> _Block:
        """Return a block of a size: one that nobody uses any more, or a new one."""
        for block in self._blocks:
            if len(block.memory) == size and block.is_free:
                block.used = 0
                block.places.clear()
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
