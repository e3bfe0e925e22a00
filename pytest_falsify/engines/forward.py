"""One run of a loaded model: the prefill and the decode steps of a padded batch."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from pytest_falsify.engines.arena import Arena
from pytest_falsify.engines.base import Answer
from pytest_falsify.engines.handout import HandOut, Member, Stopped, off_device
from pytest_falsify.errors import CaptureError
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch

    from pytest_falsify.captures.capture import TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.engines.base import Sink
    from pytest_falsify.engines.observer import Watch
    from pytest_falsify.stages.vocabulary import Site

LEFT, RIGHT = "left", "right"
PADDING = 0
"""The token that fills up a batch. The mask hides it, so any would do."""
MEMORIES = "past_key_values", "cache_params", "state", "mems"
"""What models call, in output and arguments alike, what they carry from step to step: keys and
values, or the state of a recurrence (Mamba and xLSTM; RWKV; XLNet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences that run side by side, each filled up to the longest.

    Attributes:
        rows: the sequences.
        side: where the padding stands, ``LEFT`` or ``RIGHT``.
    """

    rows: tuple[TokenInputs, ...]
    side: str = LEFT

    @property
    def width(self) -> int:
        """The length of the longest sequence."""
        return max(len(each.tokens) for each in self.rows)

    @property
    def is_padded(self) -> bool:
        """Whether the sequences differ in length."""
        return any(len(each.tokens) != self.width for each in self.rows)

    def padding(self, index: int) -> tuple[int, int]:
        """Return how many columns of padding stand before and after a sequence."""
        lacking = self.width - len(self.rows[index].tokens)
        return (lacking, 0) if self.side == LEFT else (0, lacking)

    def filled(self, filling: int, own: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return one list a sequence: its own values with the filling where its padding stands."""
        found = []
        for index, values in enumerate(own):
            before, after = self.padding(index)
            found.append([*[filling] * before, *values, *[filling] * after])
        return found

    def member(self, index: int, step: int, positions: tuple[int, ...] | None) -> Member:
        """Return where a sequence stands in a step.

        Args:
            index: which sequence.
            step: 0 for the prefill.
            positions: of the tokens of the prefill whose rows are kept, counted from the end where
                negative; None: all.
        """
        length = len(self.rows[index].tokens)
        before, after = self.padding(index)
        is_prefill = step == 0
        is_all = not is_prefill or not (before or after)
        return Member(
            index=index,
            positions=tuple(range(length)) if is_prefill else (length + step - 1,),
            columns=self.width + step,
            fed=slice(None) if is_all else slice(before, before + length),
            padding=(before, after),
            chosen=_places(positions, length) if is_prefill and positions is not None else None,
        )


def beside(inputs: TokenInputs, *, size: int, side: str, longest: int | None) -> Batch:
    """Return a batch in which an input comes first and every other sequence is longer.

    The others are the input's own tokens, rotated and repeated, one token longer each: so the input
    is padded, and by as many columns as there are others, as far as the model's positions reach.

    Args:
        inputs: the sequence that is looked at.
        size: how many sequences there are.
        side: where the padding stands.
        longest: the most tokens that a sequence may have.
    """
    others = []
    for place in range(1, size):
        length = len(inputs.tokens) + place
        length = length if longest is None else min(length, longest)
        tokens = islice(cycle(inputs.tokens), place, place + length)
        others.append(replace(inputs, tokens=tuple(tokens), forced=()))
    return Batch(rows=(inputs, *others), side=side)


def _places(positions: tuple[int, ...], length: int) -> tuple[int, ...]:
    """Return positions counted from the beginning, each once and in order."""
    for each in positions:
        if not -length <= each < length:
            msg = f"position {each} is out of range"
            fed = number_of(length, "token that is", "tokens that are")
            raise CaptureError(msg, expected=f"one of {fed} fed")
    return tuple(sorted({each % length for each in positions}))


@dataclass(kw_only=True)
class _Said:
    """What the model has said to one sequence."""

    inputs: TokenInputs
    logits: list[np.ndarray[Any, Any]] = field(default_factory=list)
    greedy: list[int] = field(default_factory=list)

    def next_token(self, step: int) -> int:
        """Return the token that the step after ``step`` is fed."""
        return self.inputs.forced[step] if self.inputs.forced else self.greedy[step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A model and a batch on their way through the steps of a plan.

    Attributes:
        watch: where the planned sites are observed; None: nowhere.
        sinks: who takes the tensors of the first sequences; nobody takes those of the others.
        end: the last planned site, if the run may end there, and how many there are in its step.
        arena: where copies are kept.
    """

    model: Any
    device: str
    batch: Batch
    plan: Plan
    watch: Watch | None
    sinks: tuple[Sink, ...]
    end: tuple[Site, int] | None = None
    arena: Arena = field(default_factory=Arena)

    def answers(self) -> tuple[Answer, ...]:
        """Run, hand out what is seen, and return what the model said to each sequence."""
        self.arena.begin()
        said = [_Said(inputs=each) for each in self.batch.rows]
        fed = self.batch.filled(PADDING, [each.tokens for each in self.batch.rows])
        carried: dict[str, Any] = {}
        stopped_at = None
        out = HandOut(waits=self.device != "cpu", arena=self.arena)
        with self.watch.watching(self.model, out.show) if self.watch else nullcontext():
            for step in range(self.plan.decode_steps + 1):
                output = self._step(out, step, fed, carried)
                if output is None:
                    stopped_at = self.end[0] if self.end else None
                    break
                self._keep(step, output.logits, said)
                if step < self.plan.decode_steps:
                    carried = _carried(output)
                    fed = [[each.next_token(step)] for each in said]
        return tuple(
            Answer(
                logits=tuple(each.logits), continuation=tuple(each.greedy), stopped_at=stopped_at
            )
            for each in said
        )

    def _step(
        self, out: HandOut, step: int, fed: list[list[int]], carried: Mapping[str, Any]
    ) -> Any:
        """Return what the model puts out, or None when it was stopped on the way."""
        out.begin(
            step,
            ((self._member(step, row), sink) for row, sink in enumerate(self.sinks)),
            last=self.end[1] if self.end and step == self.plan.decode_steps else None,
        )
        output = None
        with suppress(Stopped):
            output = self.model(
                input_ids=self._tensor(fed),
                use_cache=self.plan.decode_steps > 0,
                **carried,
                **self._placing(step),
            )
        out.finish()
        return output

    def _placing(self, step: int) -> dict[str, torch.Tensor]:
        """Return the mask and the positions that tell padding from tokens; without any, nothing."""
        if not self.batch.is_padded:
            return {}
        members = [self._member(step, row) for row in range(len(self.batch.rows))]
        masks = self.batch.filled(0, [[1] * len(each.tokens) for each in self.batch.rows])
        positions = [list(each.positions) for each in members]
        return {
            "attention_mask": self._tensor([mask + [1] * step for mask in masks]),
            "position_ids": self._tensor(
                positions if step else self.batch.filled(PADDING, positions)
            ),
        }

    def _keep(self, step: int, logits: torch.Tensor, said: list[_Said]) -> None:
        chosen = logits[:, -1].argmax(-1).tolist() if step < self.plan.decode_steps else ()
        for row, each in enumerate(said):
            each.logits.append(off_device(logits[row, self._member(step, row).fed]))
            each.greedy.extend(chosen[row : row + 1])

    def _member(self, step: int, row: int) -> Member:
        return self.batch.member(row, step, self.plan.positions)

    def _tensor(self, values: list[list[int]]) -> torch.Tensor:
        import torch

        return torch.tensor(values, device=self.device)


def _carried(output: Any) -> dict[str, Any]:
    """Return what the next step is given of the steps before, under the model's own name.

    Raises:
        CaptureError: when there is nothing: the next token would be run as if it were the first.
    """
    found = {name: each for name in MEMORIES if (each := getattr(output, name, None)) is not None}
    if not found:
        msg = "this model carries nothing from one step to the next: it cannot decode"
        raise CaptureError(msg, remedy="leave out the decode steps (`decode_steps: 0`)")
    return found
