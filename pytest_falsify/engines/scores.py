"""The scaled scores of an eager attention, seen as it computes them.

No module puts them out, and to compute them again would show what they ought to be. They are what
the mask is added to: so the mask tells of them. Where there is none, they are what softmax is
given. Where neither happens nothing is shown.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SUMS = frozenset({"add", "add_"})
SOFTMAX = "softmax"


@contextmanager
def seen_scores(
    query: Tensor, key: Tensor, mask: Tensor | None, show: Callable[[Tensor], None]
) -> Iterator[Tensor | None]:
    """Show the scores of the attention that is computed meanwhile.

    Args:
        query: (batch, heads, tokens, channels).
        key: (batch, key heads, sources, channels).
        mask: that is added to the scores, or None.
        show: takes them, (batch, heads, tokens, sources), once; they may be written to afterwards.

    Yields:
        the mask that the attention has to be given.
    """
    scores = _Scores((*query.shape[:3], key.shape[2]), show)
    if mask is None:
        with _UntilSoftmax(scores):
            yield None
    else:
        yield _TellingMask.of(mask, scores)


class _Scores:
    """Finds the scores among what a function is given, and shows the first that it finds."""

    def __init__(self, shape: tuple[int, ...], show: Callable[[Tensor], None]) -> None:
        self.shape = shape
        self.show: Callable[[Tensor], None] | None = show

    def look(self, given: Iterable[Any]) -> None:
        """Look at the arguments of a function that takes scores."""
        if self.show is None:
            return
        for each in given:
            if isinstance(each, Tensor) and each.shape == self.shape:
                show, self.show = self.show, None
                show(each)
                return


class _TellingMask(Tensor):  # type: ignore[misc]  # torch's own annotations are not read
    """A mask that tells what it is added to, and so does whatever is made of it alone."""

    scores: _Scores

    @classmethod
    def of(cls, mask: Tensor, scores: _Scores) -> _TellingMask:
        """Return the same memory as a mask that tells."""
        found: _TellingMask = mask.as_subclass(cls)
        found.scores = scores
        return found

    @classmethod
    def __torch_function__(
        cls, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look at what a function of torch is given beside the mask, and call it."""
        named = kwargs or {}
        tensors = [each for each in (*args, *named.values()) if isinstance(each, Tensor)]
        others = [each for each in tensors if not isinstance(each, cls)]
        told = {each.scores for each in tensors if isinstance(each, cls)}
        with DisableTorchFunctionSubclass():
            if func.__name__ in SUMS:
                for scores in told:
                    scores.look(others)
            found = func(*args, **named)
            is_mask = type(found) is Tensor and len(told) == 1 and not others
            return cls.of(found, *told) if is_mask else found


class _UntilSoftmax(TorchFunctionMode):  # type: ignore[misc]
    """Tells what softmax is given."""

    def __init__(self, scores: _Scores) -> None:
        super().__init__()
        self.scores = scores

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look at what a function of torch is given, and call it."""
        named = kwargs or {}
        if func.__name__ == SOFTMAX:
            self.scores.look((*args, *named.values()))
        return func(*args, **named)
