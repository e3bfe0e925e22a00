"""What a run was fed, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The tokens of one sequence, by step.

    Attributes:
        steps: the token ids that each step was fed: the prompt, then what was decoded.
    """

    steps: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tokens: Iterable[int], continuation: Iterable[int] = ()) -> Context:
        """Return the context of a prompt and of the tokens decoded after it, one a step."""
        return cls(steps=(tuple(tokens), *((token,) for token in continuation)))

    def tokens(self, step: int) -> tuple[int, ...]:
        """Return the token ids that a step was fed."""
        return self.steps[step]

    def positions(self, step: int) -> range:
        """Return the positions of the tokens that a step was fed."""
        first = sum(map(len, self.steps[:step]))
        return range(first, first + len(self.steps[step]))
