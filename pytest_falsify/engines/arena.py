"""Memory for copies that are kept together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SMALLEST, LARGEST = 1 << 20, 8 << 20
ALIGNMENT = 64


@dataclass(slots=True)
class Arena:
    """Copies tensors of the host into blocks, each twice as large as the one before.

    One by one the copies would lie scattered between what a model allocates and frees, and the gaps
    would be lost: a third of what is kept. NumPy asks for huge pages for the larger blocks, which
    halves what touching fresh memory costs. A block is freed with the last copy in it.
    """

    _block: torch.Tensor | None = None
    _used: int = 0
    _size: int = field(default=SMALLEST)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy in C order."""
        place = self._place(tensor.nbytes)
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)

    def _place(self, count: int) -> torch.Tensor:
        """Return a fresh place of some bytes."""
        if self._block is None or self._used + count > len(self._block):
            import torch

            self._block = torch.from_numpy(np.empty(max(self._size, count), np.uint8))
            self._used, self._size = 0, min(2 * self._size, LARGEST)
        place = self._block[self._used : self._used + count]
        self._used += -(-count // ALIGNMENT) * ALIGNMENT
        return place
