"""Faults of order: heads, tokens and parts that lie where others should."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

from pytest_falsify.localize.trial import Hypothesis
from pytest_falsify.stages.context import Context
from pytest_falsify.stages.operations import split_projections
from pytest_falsify.stages.vocabulary import STAGES, Site

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pytest_falsify.localize.trial import Trial, Variants

HEADS = frozenset({"q_post_rope", "k_post_rope", "attn_scores", "attn_softmax", "attention"})
PACKED = "attention"
QKV = frozenset({"qkv_matmul", "qkv_bias"})
EXCHANGED = {"ffn_gate": "ffn_up", "ffn_up": "ffn_gate"}


def _head_orders(trial: Trial) -> Variants:
    for label, order in _orders(trial):
        yield label, _reordered(order)


def _orders(trial: Trial) -> list[tuple[str, list[int]]]:
    """Return permutations of the heads, each once and none that changes nothing."""
    heads = _by_head(trial, trial.expected).shape[_head_axis(trial)]
    shared_by = getattr(trial.place.attention, "num_key_value_groups", 1)
    key_heads = trial.place.config.num_attention_heads // shared_by
    found = [
        ("reversed", list(range(heads))[::-1]),
        ("rotated by one", [(each + 1) % heads for each in range(heads)]),
        ("rotated by minus one", [(each - 1) % heads for each in range(heads)]),
        ("first two exchanged", [1, 0, *range(2, heads)] if heads > 1 else [0]),
    ]
    if heads % key_heads == 0:
        grid = [
            list(range(each * (heads // key_heads), (each + 1) * (heads // key_heads)))
            for each in range(key_heads)
        ]
        turned = [each for column in zip(*grid, strict=True) for each in column]
        back = sorted(range(heads), key=turned.__getitem__)
        found += [("groups by turns", turned), ("turns by groups", back)]
    told: dict[tuple[int, ...], str] = {}
    for label, order in found:
        told.setdefault(tuple(order), label)
    return [(label, list(order)) for order, label in told.items() if sorted(order) != list(order)]


def _reordered(order: list[int]) -> Callable[[Trial], torch.Tensor]:
    def reordered(trial: Trial) -> torch.Tensor:
        found = trial.expected
        by_head = _by_head(trial, found)
        return by_head.index_select(_head_axis(trial), _index(order, found)).reshape(found.shape)

    return reordered


def _index(order: list[int], beside: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.tensor(order, device=beside.device)


def _by_head(trial: Trial, value: torch.Tensor) -> torch.Tensor:
    """Return a tensor with an axis of its own for the heads."""
    if trial.site.stage != PACKED:
        return value
    return value.unflatten(-1, (-1, trial.place.attention.head_dim))


def _head_axis(trial: Trial) -> int:
    return 0 if STAGES[trial.site.stage].dims.startswith("h") else 1


def _token_shifts(trial: Trial) -> Variants:
    if "t" not in STAGES[trial.site.stage].dims.split():
        return
    axis = STAGES[trial.site.stage].dims.split().index("t")
    for offset in (1, -1):
        yield f"{offset:+d}", _rolled(offset, axis)
    yield "+1, the first one twice", lambda other: _first_twice(other.expected, axis)
    if trial.site.stage == "embedding":
        yield "fed +1, the first one twice", _fed_late


def _fed_late(trial: Trial) -> torch.Tensor:
    """Embed each token in the next one's place; what depends on the position stays there."""
    steps = list(trial.context.steps)
    first, *others = steps[trial.site.step]
    steps[trial.site.step] = (first, first, *others[:-1]) if others else (first,)
    return replace(trial, context=Context(steps=tuple(steps))).evaluate()


def _rolled(offset: int, axis: int) -> Callable[[Trial], torch.Tensor]:
    return lambda trial: trial.expected.roll(offset, axis)


def _first_twice(value: torch.Tensor, axis: int) -> torch.Tensor:
    import torch

    tokens = value.shape[axis]
    return torch.cat([value.narrow(axis, 0, 1), value.narrow(axis, 0, tokens - 1)], dim=axis)


def _first_tokens(trial: Trial) -> Variants:
    """Yield other tokens at the beginning: the one whose row the subject shows there.

    An embedding that is more than a table, a sum with one of positions, has no such rows.
    """
    if not trial.modules:
        return
    yield "a token put before all", lambda trial: _begun(trial, shift=1)
    yield "the first token replaced", lambda trial: _begun(trial, shift=0)
    yield "the first token lost", lambda trial: trial.expected.roll(-1, 0)


def _begun(trial: Trial, *, shift: int) -> torch.Tensor:
    """Return the embedding with the known row nearest to the subject's first row before it."""
    import torch

    table = trial.modules[0](
        torch.arange(len(trial.modules[0].weight), device=trial.expected.device)
    )
    nearest = (table - trial.observed[:1]).square().sum(-1).argmin()
    return torch.cat(
        [table[nearest][None], trial.expected[1 - shift : len(trial.expected) - shift]]
    )


def _transposes(_trial: Trial) -> Variants:
    """Yield tensors whose values were written in one order of axes and read in another."""
    yield "tokens and channels", lambda trial: _read_as(trial.expected, 0, -1)
    yield "heads before tokens", _heads_first


def _read_as(value: torch.Tensor, one: int, other: int) -> torch.Tensor:
    return value.transpose(one, other).contiguous().view(value.shape)


def _heads_first(trial: Trial) -> torch.Tensor:
    value = trial.expected
    by_head = _by_head(trial, value)
    if by_head.dim() < 3:  # noqa: PLR2004 - no heads to move
        return value
    return _read_as(by_head, 0, 1).reshape(value.shape)


def _parts(_trial: Trial) -> Variants:
    for order in permutations("qkv"):
        if "".join(order) != "qkv":
            yield f"q k v -> {' '.join(order)}", _in_order(order)


def _in_order(order: tuple[str, ...]) -> Callable[[Trial], torch.Tensor]:
    def joined(trial: Trial) -> torch.Tensor:
        import torch

        parts = dict(zip("qkv", split_projections(trial.place, trial.expected), strict=True))
        return torch.cat([parts[each] for each in order], dim=-1)

    return joined


def _row_orders(_trial: Trial) -> Variants:
    """Yield q and k whose weights are in the other order of rotary embedding's pairs."""
    yield "half -> interleaved", lambda trial: _paired(trial, halves_first=True)
    yield "interleaved -> half", lambda trial: _paired(trial, halves_first=False)


def _paired(trial: Trial, *, halves_first: bool) -> torch.Tensor:
    import torch

    half = trial.place.attention.head_dim // 2
    shape = (-1, 2, half) if halves_first else (-1, half, 2)
    *turned, value = split_projections(trial.place, trial.expected)
    pairs = [each.unflatten(-1, shape).transpose(-1, -2).flatten(-3) for each in turned]
    return torch.cat([*pairs, value], dim=-1)


def _exchanged(trial: Trial) -> Variants:
    other = EXCHANGED[trial.site.stage]
    site = Site(trial.site.step, trial.site.layer, other)
    if trial.graph.has(site):
        yield f"{trial.site.stage} -> {other}", lambda each: each.elsewhere(site)


LAYOUT = (
    Hypothesis(name="head order", stages=HEADS, variants=_head_orders),
    Hypothesis(name="token shift", stages=frozenset(), variants=_token_shifts),
    Hypothesis(name="first token", stages=frozenset({"embedding"}), variants=_first_tokens),
    Hypothesis(name="transpose", stages=frozenset(), variants=_transposes),
    Hypothesis(name="q/k/v order", stages=QKV, variants=_parts),
    Hypothesis(name="q/k permutation", stages=QKV, variants=_row_orders),
    Hypothesis(name="gate and up", stages=frozenset(EXCHANGED), variants=_exchanged),
)
