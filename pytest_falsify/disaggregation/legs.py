"""Which leg is to blame: each is judged by what it made of what it was given.

* prefill: what the worker holds for the next token, against what the oracle's first decode step
  finds in its cache;
* transfer: what arrived, against what was sent, by the bound that the codec declares;
* decode: what the worker computes, against what good code computes from the very cache that
  arrived.

So a leg is not blamed for what it inherited.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.captures.plan import CACHES
from pytest_falsify.disaggregation.transfer import Transfer
from pytest_falsify.stages.vocabulary import TRANSFER, Site
from pytest_falsify.words import number_are

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from pytest_falsify.captures.capture import Capture, CapturedTensor

    Array = NDArray[Any]

SIGMAS = 6.0
"""By how many standard deviations of independent roundings a head's scale may be off."""


class Leg(Enum):
    """One part of disaggregated serving, in causal order."""

    PREFILL = "prefill"
    TRANSFER = "transfer"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """What a transfer did to one half of one layer's cache beyond what its codec declares.

    Attributes:
        site: where it arrived.
        head: the key head.
        position: of the token, or None where the whole head is off.
        error: how far the value is off, or by which factor the head is.
        allowed: how far it may be.
        count: how many values of this site are beyond their bound.
    """

    site: Site
    head: int
    position: int | None
    error: float
    allowed: float
    count: int

    def __str__(self) -> str:
        at = "" if self.position is None else f", position {self.position}"
        what = "scaled by 1 +" if self.position is None else "off by"
        return (
            f"{self.site}: head {self.head}{at}: {what} {self.error:.3g}, "
            f"the codec allows {self.allowed:.3g} ({number_are(self.count, 'value')} beyond)"
        )


def cache_sites(capture: Capture, step: int) -> tuple[Site, ...]:
    """Return the sites of a capture that show its cache at a step, in causal order."""
    return tuple(each for each in capture.tensors if each.step == step and each.stage in CACHES)


def held_after_prefill(subject: Capture, oracle: Capture) -> tuple[Capture, Capture]:
    """Return the caches that the next token finds: the subject's, and the oracle's.

    The oracle's are those that its first decode step looks at, without that step's own token. What
    the oracle shows and the subject does not is missing on the subject's side.
    """
    theirs = {
        replace(site, step=0): _without_last(oracle.tensors[site])
        for site in cache_sites(oracle, 1)
    }
    mine = {site: subject.tensors[site] for site in cache_sites(subject, 0)}
    return _only(subject, mine, subject), _only(oracle, theirs, subject)


def decoded(subject: Capture, replay: Capture) -> tuple[Capture, Capture]:
    """Return what decode steps added to the cache: the subject's, and good code's."""
    sides = []
    for each in (subject, replay):
        tensors = {
            site: _last(tensor)
            for site, tensor in each.tensors.items()
            if site.stage in CACHES and site.step > 0
        }
        sides.append(_only(each, tensors, subject))
    return sides[0], sides[1]


def arrived(subject: Capture) -> tuple[Capture, Capture]:
    """Return the caches that arrived, and as what they were sent, at the same sites."""
    sites = cache_sites(subject, TRANSFER)
    mine = {site: subject.tensors[site] for site in sites}
    theirs = {site: subject.tensors[replace(site, step=0)] for site in sites}
    return _only(subject, mine, subject), _only(subject, theirs, subject)


def transferred(subject: Capture) -> tuple[Excess, ...]:
    """Return the first excess of each half of a layer whose transfer broke its codec's bound."""
    return tuple(
        found
        for site in cache_sites(subject, TRANSFER)
        if (found := excess(subject, site, subject.tensors[site])) is not None
    )


def excess(subject: Capture, site: Site, received: CapturedTensor) -> Excess | None:
    """Return what is beyond the codec's bound in what arrived at a site, or None.

    Where what was sent is not finite no bound can be given; that is the prefill's doing.

    Args:
        subject: the run, which knows its transfer and shows what was sent.
        site: of the step ``transfer``.
        received: what arrived there.
    """
    sent = subject.tensors[replace(site, step=0)]
    if sent.positions != received.positions or sent.array.shape != received.array.shape:
        return Excess(site=site, head=0, position=None, error=np.inf, allowed=0.0, count=0)
    transfer = transfer_of(subject)
    bound = transfer.bound(sent.array, received.array)
    x, y = (each.array.astype(np.float64) for each in (sent, received))
    is_bounded = np.isfinite(x).all(axis=(0, 2), keepdims=True)
    with np.errstate(invalid="ignore"):
        error = np.abs(y - x)
        is_beyond = ~(error <= bound) & is_bounded
    if is_beyond.any():
        place, head, channel = map(int, np.argwhere(is_beyond)[0])
        return Excess(
            site=site,
            head=head,
            position=sent.positions[place],
            error=float(error[place, head, channel]),
            allowed=float(bound[place, head, channel]),
            count=int(is_beyond.sum()),
        )
    coded = transfer.codec.bound(x)
    return _scaled(site, (x, y), (coded, bound - coded), is_bounded.reshape(-1))


def transfer_of(subject: Capture) -> Transfer:
    """Return how a run transferred its cache."""
    return Transfer(options=subject.identity.settings.get("transfer", {}))


def is_finite(capture: Capture, step: int) -> bool:
    """Tell whether a run's cache at a step holds numbers only."""
    sites = cache_sites(capture, step)
    return all(np.isfinite(capture.tensors[site].array.astype(np.float64)).all() for site in sites)


def was_changed(subject: Capture) -> Site | None:
    """Return the first site at which decode steps changed what had arrived, or None.

    A window forgets its oldest tokens; what it still holds is what arrived.
    """
    for site, seen in subject.tensors.items():
        arrived = subject.tensors.get(replace(site, step=TRANSFER))
        if site.stage not in CACHES or site.step < 1 or arrived is None:
            continue
        then = dict(zip(arrived.positions, arrived.array, strict=True))
        for position, row in zip(seen.positions, seen.array, strict=True):
            if position in then and row.tobytes() != then[position].tobytes():
                return site
    return None


def _scaled(
    site: Site, values: tuple[Array, Array], bounds: tuple[Array, Array], is_bounded: Array
) -> Excess | None:
    """Return the first head whose best-fit scale is further from 1 than roundings explain.

    Roundings to nearest within +-b have a variance of at most b^2 / 3, and independent ones a mean
    of (2b)^2 / 12 relative to where the density of the values slopes; thrice that is allowed.
    Equal rows are rounded equally and count once. What the receiver rounds again lies on the
    codec's few levels, each rounded one way: no independence is taken for granted there.

    Args:
        site: where they arrived.
        values: what was sent and what arrived, (tokens, heads, channels).
        bounds: of the codec, and of the receiver's own rounding.
        is_bounded: the heads that can be judged.
    """
    x, y = values
    for head in np.flatnonzero(is_bounded):
        chosen = np.unique(x[:, head], axis=0, return_index=True)[1]
        sent, error, coded, again = (each[chosen, head] for each in (x, y - x, *bounds))
        energy = float((sent**2).sum())
        if energy == 0:
            continue
        drift = float((sent * error).sum()) / energy
        noise = SIGMAS * float(np.sqrt((sent**2 * coded**2).sum() / 3))
        limit = (noise + float((coded**2).sum()) + float((np.abs(sent) * again).sum())) / energy
        if not abs(drift) <= limit:
            return Excess(
                site=site, head=int(head), position=None, error=drift, allowed=limit, count=0
            )
    return None


def _only(capture: Capture, tensors: dict[Site, CapturedTensor], fed: Capture) -> Capture:
    """Return a part of a capture; the oracle chose the tokens that the others were forced to."""
    inputs = replace(capture.inputs, forced=fed.inputs.forced)
    return replace(capture, inputs=inputs, tensors=tensors, missing=())


def _without_last(tensor: CapturedTensor) -> CapturedTensor:
    return replace(tensor, array=tensor.array[:-1], positions=tensor.positions[:-1])


def _last(tensor: CapturedTensor) -> CapturedTensor:
    return replace(tensor, array=tensor.array[-1:], positions=tensor.positions[-1:])


def named(legs: Iterable[Leg]) -> str:
    """Return the first of some legs, as evidence has it; ``none`` for none."""
    order = list(Leg)
    found = sorted(legs, key=order.index)
    return found[0].value if found else "none"
