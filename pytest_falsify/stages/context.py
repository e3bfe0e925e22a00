"""What a run was fed, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The tokens of one sequence, by step.

    Attributes:
        steps: the token ids that each step was fed: the prompt, then one token a step, which is the
            decoded one unless the run was forced to take others.
    """

    steps: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tokens: Iterable[int], continuation: Iterable[int] = ()) -> Context:
        """Return the context of a prompt and of the tokens that were fed after it, one a step."""
        return cls(steps=(tuple(tokens), *((token,) for token in continuation)))

    def tokens(self, step: int) -> tuple[int, ...]:
        """Return the token ids that a step was fed.

        Raises:
            CaptureError: when the run is not known to have had such a step.
        """
        if not 0 <= step < len(self.steps):
            msg = f"nothing says which tokens step {step} was fed"
            raise CaptureError(msg, expected=f"a step of 0..{len(self.steps) - 1}")
        return self.steps[step]

    def positions(self, step: int) -> range:
        """Return the positions of the tokens that a step was fed."""
        first = sum(map(len, self.steps[:step]))
        return range(first, first + len(self.tokens(step)))
