"""Faults inside attention: which keys and values a query meets, and what it may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.localize.trial import Hypothesis

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pytest_falsify.localize.trial import Trial, Variants

SCORES = frozenset({"attn_scores"})
SOFTMAX = frozenset({"attn_softmax"})
MIXED = frozenset({"attention"})
CACHED = frozenset({"k_cache", "v_cache"})
CAPPED = frozenset({"attn_scores", "lm_head"})
CAPS = (50.0, 30.0)
"""Gemma-2's caps of scores and of logits."""


def _tiled(trial: Trial) -> Variants:
    """Yield key heads taken in turn (0 1 0 1) where each serves its neighbours (0 0 1 1)."""
    first, of_key_heads = trial.ordered
    heads = first.shape[1] if trial.site.stage == "attn_scores" else first.shape[0]
    repeats = heads // of_key_heads.shape[1]
    if repeats < 2 or of_key_heads.shape[1] < 2:  # noqa: PLR2004 - then both are one
        return

    def tiled(other: Trial) -> torch.Tensor:
        one, keys = other.ordered
        return other.with_inputs(one, keys.repeat(1, repeats, 1)).evaluate()

    yield "repeat -> interleave", tiled


def _cache_shifted(trial: Trial) -> Variants:
    if trial.ordered[1].shape[0] < 2:  # noqa: PLR2004 - one source cannot be shifted
        return
    for offset in (1, -1):
        yield f"sources {offset:+d}", _rolled_sources(offset)


def _rolled_sources(offset: int) -> Callable[[Trial], torch.Tensor]:
    def rolled(trial: Trial) -> torch.Tensor:
        one, sources = trial.ordered
        return trial.with_inputs(one, sources.roll(offset, 0)).evaluate()

    return rolled


def _slots(trial: Trial) -> Variants:
    """Yield entries in other slots than their own: the newest, or all that were there before."""
    yield "the newest is not written", lambda other: _unwritten(other.expected)
    if len(trial.expected) > 1:
        yield "the newest is written one slot early", _written_early
    if len(trial.ordered) > 1:
        for offset in (1, -1):
            yield f"the past {offset:+d}", _past_moved(offset)


def _unwritten(cached: torch.Tensor) -> torch.Tensor:
    found = cached.clone()
    found[-1] = 0
    return found


def _written_early(trial: Trial) -> torch.Tensor:
    found = _unwritten(trial.expected)
    found[-2] = trial.expected[-1]
    return found


def _past_moved(offset: int) -> Callable[[Trial], torch.Tensor]:
    def moved(trial: Trial) -> torch.Tensor:
        past, new = trial.ordered
        return trial.with_inputs(past.roll(offset, 0), new).evaluate()

    return moved


def _masks(_trial: Trial) -> Variants:
    yield "one token too many", lambda trial: _masked(trial, _later)
    yield "the token itself left out", lambda trial: _masked(trial, _earlier)
    yield "none", lambda trial: _masked(trial, lambda allowed: allowed | True)


def _padding(_trial: Trial) -> Variants:
    yield "the first token taken for padding", lambda trial: _masked(trial, _without_first)
    yield "the last token taken for padding", lambda trial: _masked(trial, _without_last)


def _windows(trial: Trial) -> Variants:
    window = trial.place.window
    if window is None:
        return
    yield "ignored", lambda other: _masked(other, _causal)
    for offset in (1, -1):
        yield f"{offset:+d}", _of_window(window + offset)


def _of_window(window: int) -> Callable[[Trial], torch.Tensor]:
    return lambda trial: _masked(trial, lambda allowed: _causal(allowed).triu(1 - window))


def _masked(trial: Trial, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return the softmax of the scores under another mask; what sees nothing stays nought."""
    import torch

    (scores,) = trial.ordered
    allowed = change(trial.with_inputs(torch.zeros_like(scores)).evaluate() > 0)
    masked = scores.float().masked_fill(~allowed, float("-inf"))
    weights = torch.nn.functional.softmax(masked, dim=-1)
    return torch.nan_to_num(weights, nan=0.0).to(scores.dtype)


def _later(allowed: torch.Tensor) -> torch.Tensor:
    return allowed | allowed.roll(1, -1).index_fill(-1, _first(allowed), value=False)


def _earlier(allowed: torch.Tensor) -> torch.Tensor:
    """Leave the last source of each token out, unless it is the only one."""
    import torch

    without = allowed & allowed.roll(-1, -1)
    without[..., -1] = False
    return torch.where(without.any(-1, keepdim=True), without, allowed)


def _without_first(allowed: torch.Tensor) -> torch.Tensor:
    return _without_source(allowed, 0)


def _without_last(allowed: torch.Tensor) -> torch.Tensor:
    return _without_source(allowed, allowed.shape[-1] - 1)


def _without_source(allowed: torch.Tensor, source: int) -> torch.Tensor:
    import torch

    without = allowed.clone()
    without[..., source] = False
    return torch.where(without.any(-1, keepdim=True), without, allowed)


def _causal(allowed: torch.Tensor) -> torch.Tensor:
    import torch

    tokens, sources = allowed.shape[-2:]
    return torch.ones_like(allowed).tril(sources - tokens)


def _first(allowed: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.zeros(1, dtype=torch.long, device=allowed.device)


def _caps(_trial: Trial) -> Variants:
    for cap in CAPS:
        yield f"{cap:g} applied", _capped(cap)
        yield f"{cap:g} missing", _uncapped(cap)


def _capped(cap: float) -> Callable[[Trial], torch.Tensor]:
    return lambda trial: (trial.expected / cap).tanh() * cap


def _uncapped(cap: float) -> Callable[[Trial], torch.Tensor]:
    """Return what undoes cap * tanh(s / cap)."""
    return lambda trial: (trial.expected / cap).clamp(-1, 1).atanh() * cap


ATTENTION = (
    Hypothesis(name="gqa", stages=SCORES | MIXED, variants=_tiled),
    Hypothesis(name="kv index", stages=SCORES | MIXED, variants=_cache_shifted),
    Hypothesis(name="cache slot", stages=CACHED, variants=_slots),
    Hypothesis(name="mask", stages=SOFTMAX, variants=_masks),
    Hypothesis(name="padding", stages=SOFTMAX, variants=_padding),
    Hypothesis(name="window", stages=SOFTMAX, variants=_windows),
    Hypothesis(name="soft-cap", stages=CAPPED, variants=_caps),
)
