"""Two runs side by side: which experts changed, and whether noise explains it.

A choice that changes is judged by its margin: by how much the oracle prefers the experts that the
subject left out, in the oracle's own scores, against the noise of that token's scores in a control.
Below it is a tie, above it a flip. Behind a tie other experts do the work, so what follows it in
later layers, of the same token or of later ones, is allowed the error that the subject itself shows
there: such a change is inherited, and no flip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from pytest_falsify.compare.distribution import js_divergence, kl_divergence
from pytest_falsify.compare.tokens import SIGMAS
from pytest_falsify.errors import AlignmentError
from pytest_falsify.routing.gate import group_scores, scores
from pytest_falsify.routing.recompute import is_misweighed, misdirection
from pytest_falsify.routing.score_noise import ScoreNoise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pytest_falsify.routing.trace import LayerRouting, Routing

    Array = NDArray[Any]

NARROW = (ml_dtypes.bfloat16, np.float16)


class Kind(Enum):
    """What became of a choice of experts."""

    TIE = "tie"
    FLIP = "flip"
    INHERITED = "inherited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One token and layer whose experts are not the oracle's.

    Attributes:
        token: its place among the tokens that were compared.
        left_out: the oracle's experts that the subject did not choose, by id.
        taken: those that it chose instead.
        margin: by how much the oracle prefers the former, at most.
        allowance: the margin that noise can overcome.
    """

    token: int
    layer: int
    left_out: tuple[int, ...]
    taken: tuple[int, ...]
    margin: float
    allowance: float
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDifference:
    """What two runs make of one layer.

    Attributes:
        jaccard: (tokens,) the share of experts that both chose among those that either did.
        weight_error: (tokens,) the largest difference of a weight, of the experts that both chose.
        kl: (tokens,) KL(oracle || subject) over all experts, in nats.
        js: (tokens,) the Jensen-Shannon divergence.
        load_drift: the share of all places that went to other experts: total variation.
        dropped: the places that the subject and the oracle dropped.
        misdirected: the subject's tokens whose experts are not those of its own logits.
        misweighed: those whose weights are not.
        ratio: the error of the subject's scores over the control's, in the median of the tokens
            that nothing was inherited by; None without a control or such a token.
        limit: what that ratio may be.
        is_calibrated: there was a control.
        narrowed: the dtype that holds every logit of the subject exactly, and not the control's.
    """

    jaccard: Array
    weight_error: Array
    kl: Array
    js: Array
    load_drift: float
    dropped: tuple[int, int]
    misdirected: tuple[int, ...]
    misweighed: tuple[int, ...]
    ratio: float | None
    limit: float
    narrowed: str | None = None
    is_calibrated: bool = False

    @property
    def is_unjudged(self) -> bool:
        """Whether all of its tokens inherit from a tie, so that nothing tells of its scores."""
        return self.is_calibrated and self.ratio is None

    @property
    def is_noisy(self) -> bool:
        """Whether the scores are further off than the control's noise explains."""
        return self.ratio is not None and not self.ratio <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingDifference:
    """What two runs make of the tokens that both were fed.

    Attributes:
        tokens: how many were compared.
        diverged_at: the index of the first token that only one side was fed; None: there is none.
        changes: in causal order: by token, then by layer.
    """

    tokens: int
    diverged_at: int | None
    layers: Mapping[int, LayerDifference]
    changes: tuple[Change, ...]

    @property
    def unjudged(self) -> tuple[int, ...]:
        """The layers of whose scores nothing can be told, since every token inherits."""
        return tuple(index for index, each in self.layers.items() if each.is_unjudged)

    def of(self, kind: Kind) -> tuple[Change, ...]:
        """Return the changes of one kind."""
        return tuple(each for each in self.changes if each.kind is kind)


def compare_routings(
    subject: Routing, oracle: Routing, control: Routing | None = None, *, sigmas: float = SIGMAS
) -> RoutingDifference:
    """Compare two runs token by token and layer by layer.

    The subject is held to the oracle's gates and biases: a rule that it left out is its fault.

    Args:
        subject: on trial.
        oracle: trusted.
        control: known-good code at the subject's precision, on the same tokens.
        sigmas: how many standard deviations of noise a margin may be overcome by.

    Raises:
        AlignmentError: when layers or experts differ, or no token is common to all.
    """
    runs = [each for each in (subject, oracle, control) if each is not None]
    count = _common(runs)
    _must_be_alike(runs)
    tainted = np.zeros(count, dtype=bool)
    layers: dict[int, LayerDifference] = {}
    changes: list[Change] = []
    for index in sorted(oracle.layers):
        theirs = oracle.layers[index].rows(0, count)
        mine = replace(subject.layers[index].rows(0, count), gate=theirs.gate, bias=theirs.bias)
        known = None if control is None else control.layers[index].rows(0, count)
        noise = ScoreNoise.of(mine, theirs, known, sigmas)
        layers[index] = _layer(mine, theirs, known, noise, tainted)
        found = _changes(index, mine, theirs, noise, tainted)
        changes += found
        _taint(tainted, found, theirs, known)
    longest = max(len(each.tokens) for each in runs)
    return RoutingDifference(
        tokens=count,
        diverged_at=count if count < longest else None,
        layers=layers,
        changes=tuple(sorted(changes, key=lambda each: (each.token, each.layer))),
    )


def _common(runs: list[Routing]) -> int:
    """Return how many tokens from the first all runs were fed alike."""
    shortest = min(len(each.tokens) for each in runs)
    ids = np.stack([each.tokens.ids[:shortest] for each in runs])
    is_same = (ids == ids[0]).all(axis=0)
    count = shortest if is_same.all() else int(is_same.argmin())
    if not count or len({each.start for each in runs}) != 1:
        msg = "the runs were not fed the same tokens"
        raise AlignmentError(msg, expected="at least the first token in common")
    return count


def _must_be_alike(runs: list[Routing]) -> None:
    shapes = [{i: (x.experts, x.active) for i, x in each.layers.items()} for each in runs]
    if any(each != shapes[0] for each in shapes):
        msg = f"the runs route (experts, active) by layer: {shapes}"
        raise AlignmentError(msg, expected="the same layers, experts and active experts")


def _is_chosen(layer: LayerRouting) -> Array:
    """Return (tokens, experts) whether an expert was chosen; dropped places are nobody's."""
    found = np.zeros((len(layer.indices), layer.experts + 1), dtype=bool)
    np.put_along_axis(found, layer.indices.astype(np.intp), values=True, axis=1)
    return found[:, : layer.experts]


def _changes(
    index: int, mine: LayerRouting, theirs: LayerRouting, noise: ScoreNoise, tainted: Array
) -> list[Change]:
    chosen, wanted = _is_chosen(mine), _is_chosen(theirs)
    found = []
    for token in np.flatnonzero((chosen != wanted).any(axis=1)):
        left_out = np.flatnonzero(wanted[token] & ~chosen[token])
        taken = np.flatnonzero(chosen[token] & ~wanted[token])
        margin = _margin(theirs, noise.oracle[token], left_out, taken)
        allowance = noise.allowance(int(token), is_tainted=bool(tainted[token]))
        is_explained = margin <= allowance
        explained = Kind.INHERITED if tainted[token] else Kind.TIE
        found.append(
            Change(
                token=int(token),
                layer=index,
                left_out=tuple(left_out.tolist()),
                taken=tuple(taken.tolist()),
                margin=margin,
                allowance=allowance,
                kind=explained if is_explained else Kind.FLIP,
            )
        )
    return found


def _margin(theirs: LayerRouting, by: Array, left_out: Array, taken: Array) -> float:
    """Return by how much the oracle prefers what was left out, at most; NaN is no preference.

    Where a group of experts was entered that the oracle had shut, it is the groups that were close:
    a group's score is the sum of two, and has sqrt(2) times their noise.
    """
    if not len(left_out) or not len(taken):
        return math.inf  # a place was dropped, or an expert chosen twice: no margin explains that
    gate = theirs.gate
    if gate.groups > gate.chosen_groups:
        groups = group_scores(by[np.newaxis], gate.groups)[0]
        last = float(np.sort(groups)[-gate.chosen_groups])
        entered = float(groups[taken // (theirs.experts // gate.groups)].min())
        if entered < last:
            return (last - entered) / math.sqrt(2)
    margin = float(by[left_out].max() - by[taken].min())
    return margin if not math.isnan(margin) else math.inf


def _taint(
    tainted: Array, found: list[Change], theirs: LayerRouting, known: LayerRouting | None
) -> None:
    """Mark the tokens from the first changed one on: the layers to come inherit other experts."""
    places = [each.token for each in found]
    if known is not None:
        others = (_is_chosen(known) != _is_chosen(theirs)).any(axis=1)
        places += np.flatnonzero(others).tolist()
    if places:
        tainted[min(places) :] = True


def _layer(
    mine: LayerRouting,
    theirs: LayerRouting,
    known: LayerRouting | None,
    noise: ScoreNoise,
    tainted: Array,
) -> LayerDifference:
    chosen, wanted = _is_chosen(mine), _is_chosen(theirs)
    either, both = (chosen | wanted).sum(axis=1), (chosen & wanted).sum(axis=1)
    ratio, limit = noise.ratio(tainted)
    return LayerDifference(
        jaccard=both / np.maximum(either, 1),
        weight_error=_weight_error(mine, theirs, chosen & wanted),
        kl=kl_divergence(_log_shares(theirs), _log_shares(mine)),
        js=js_divergence(_log_shares(theirs), _log_shares(mine)),
        load_drift=_drift(mine.load(), theirs.load()),
        dropped=(mine.dropped(), theirs.dropped()),
        misdirected=tuple(np.flatnonzero(misdirection(mine) > 0).tolist()),
        misweighed=tuple(np.flatnonzero(is_misweighed(mine)).tolist()),
        ratio=ratio,
        limit=limit,
        is_calibrated=known is not None,
        narrowed=None if known is None else _narrowed(mine.logits, known.logits),
    )


def _narrowed(mine: Array, known: Array) -> str | None:
    """Return the narrow dtype that a router computed in, where the control's did not.

    Its rounding may well be below the noise of the model; but noise does not make round numbers.
    """
    for narrow in NARROW:
        if _is_held(mine, narrow) and not _is_held(known, narrow):
            return np.dtype(narrow).name
    return None


def _is_held(values: Array, dtype: Any) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array_equal(values.astype(dtype).astype(values.dtype), values, equal_nan=True)


def _log_shares(layer: LayerRouting) -> Array:
    """Return logits whose softmax is each expert's share of the scores."""
    if layer.gate.score.value != "sigmoid":
        return layer.logits
    with np.errstate(divide="ignore"):
        found: Array = np.log(scores(layer.logits, layer.gate))
    return found


def _weight_error(mine: LayerRouting, theirs: LayerRouting, both: Array) -> Array:
    error = np.abs(_spread(mine) - _spread(theirs))
    result: Array = np.where(both, error, 0.0).max(axis=1)
    return result


def _spread(layer: LayerRouting) -> Array:
    """Return the weights as (tokens, experts)."""
    found = np.zeros((len(layer.indices), layer.experts + 1))
    weights = layer.weights.astype(np.float64)
    np.put_along_axis(found, layer.indices.astype(np.intp), weights, axis=1)
    return found[:, : layer.experts]


def _drift(mine: Array, theirs: Array) -> float:
    shares = [each / max(int(each.sum()), 1) for each in (mine, theirs)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)
