"""Captures whose format does not say all: what it is taken to be, from those it is compared with.

APRT and bare arrays state no inputs and no positions, and APRT states no shape either. Whatever is
missing is taken from the other side of a comparison where only one reading fits; where two
would, the tensors are refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.errors import AlignmentError
from pytest_falsify.stages.vocabulary import STAGES, in_order
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_falsify.stages.vocabulary import Site

    Array = np.ndarray[Any, Any]

FLAT = "flat"
"""The dims of a tensor whose file states no shape."""
TOKENS = "t"
UNSTATED_INPUTS = TokenInputs(name="unstated", tokens=())
AFTER_MASK = "attn_softmax"
LAST_TOKEN_STAGES = frozenset({"lm_head", "moe_router", "moe_router_indices", "moe_ffn_out"})
"""What the field's engines write for the last token alone."""


def unstated_capture(tensors: Mapping[Site, CapturedTensor], *, source: str) -> Capture:
    """Return tensors that came without a manifest as a capture, in causal order.

    Args:
        tensors: by site.
        source: the format that they were read from.
    """
    ordered = sorted(tensors, key=lambda site: site.causal_key)
    layers = {site.layer for site in ordered if site.layer is not None}
    return Capture(
        identity=Identity(engine=source, versions={}, weights="unstated", settings={}, device=""),
        inputs=UNSTATED_INPUTS,
        plan=Plan(
            stages=in_order(site.stage for site in ordered),
            layers=tuple(sorted(layers)),
            decode_steps=max((site.step for site in ordered), default=0),
        ),
        tensors={site: tensors[site] for site in ordered},
        logits=(),
    )


def states_inputs(capture: Capture) -> bool:
    """Tell whether a capture says what the model was fed."""
    return bool(capture.inputs.tokens)


def as_ids(site: Site, values: Array) -> Array:
    """Return the values of a stage of ids as integers, which some formats cannot hold.

    Those of any other stage are returned as they are.

    Raises:
        AlignmentError: when an id is no whole number.
    """
    if not STAGES[site.stage].is_index or values.dtype.kind in "iu":
        return values
    is_id = np.isfinite(values) & (values == np.floor(values))
    if not is_id.all():
        msg = f"{site}: {number_of(int((~is_id).sum()), 'value is no id', 'values are no ids')}"
        raise AlignmentError(msg, expected="whole numbers")
    return values.astype(np.int64)


def agreed(captures: Sequence[Capture]) -> tuple[Capture, ...]:
    """Return captures of one comparison with what their formats leave out filled in.

    A flat tensor takes the shape of a shaped one of the same site and size in the stage's own order
    of axes, which is APRT's: token-major, ``t h d`` for the heads of q and k, ``h t s`` for scores.
    Head-major ``h t d`` has as many values and cannot be told from it. Where one side holds the
    last token alone of a stage that the field writes so, the others are cut to it.

    Raises:
        AlignmentError: when no reading of a flat tensor fits.
    """
    stated = [each for each in captures if states_inputs(each)]
    inputs = stated[0].inputs if stated else UNSTATED_INPUTS
    tensors = [dict(each.tensors) for each in captures]
    for site in {site for each in tensors for site in each}:
        holders = [index for index, each in enumerate(tensors) if site in each]
        found = [(tensors[index][site], states_inputs(captures[index])) for index in holders]
        for index, settled in zip(holders, _settled(site, found), strict=True):
            tensors[index][site] = settled
    return tuple(
        replace(each, tensors=own, inputs=each.inputs if states_inputs(each) else inputs)
        for each, own in zip(captures, tensors, strict=True)
    )


def _settled(site: Site, found: Sequence[tuple[CapturedTensor, bool]]) -> list[CapturedTensor]:
    """Return the tensors of one site; each comes with whether its positions are stated."""
    shaped = [each for each in found if each[0].dims != FLAT]
    like = next((tensor for tensor, is_stated in shaped if is_stated), None)
    like = shaped[0][0] if like is None and shaped else like
    if like is None:
        return [tensor for tensor, _ in found]
    settled = [_filled_in(site, each, like) for each in found]
    shortest = min(range(len(settled)), key=lambda index: len(settled[index].positions))
    tokens = settled[shortest].positions
    is_last_token = site.stage in LAST_TOKEN_STAGES and tokens == like.positions[-1:]
    return [_cut(each, tokens) for each in settled] if is_last_token else settled


def _filled_in(
    site: Site, found: tuple[CapturedTensor, bool], like: CapturedTensor
) -> CapturedTensor:
    tensor, is_stated = found
    if tensor.dims == FLAT:
        return _shaped(site, tensor, like)
    return tensor if is_stated else _placed(site, tensor, like)


def _placed(site: Site, tensor: CapturedTensor, like: CapturedTensor) -> CapturedTensor:
    """Return a tensor with the positions of another that has as many tokens."""
    if len(tensor.positions) != len(like.positions):
        return tensor
    return replace(tensor, positions=like.positions, mask=_mask(site, tensor, like))


def _shaped(site: Site, flat: CapturedTensor, like: CapturedTensor) -> CapturedTensor:
    dims = STAGES[site.stage].dims.split()
    names = like.dims.split()
    if sorted(names) != sorted(dims) or like.array.ndim != len(names):
        _refuse(site, "the layouts are not known to agree", flat, like)
    lengths = dict(zip(names, like.array.shape, strict=True))
    positions = like.positions
    size = int(np.prod(like.array.shape))
    if site.stage in LAST_TOKEN_STAGES and size > 0 and flat.array.size * lengths[TOKENS] == size:
        lengths[TOKENS], positions = 1, like.positions[-1:]
    elif flat.array.size != size:
        _refuse(site, "the numbers of values differ", flat, like)
    return CapturedTensor(
        array=as_ids(site, flat.array).reshape([lengths[name] for name in dims]),
        dims=" ".join(dims),
        positions=positions,
        mask=_mask(site, flat, like),
    )


def _mask(site: Site, tensor: CapturedTensor, like: CapturedTensor) -> str:
    """Return how masked places are filled: after a softmax they are nought, whoever wrote them."""
    return like.mask if site.stage == AFTER_MASK else tensor.mask


def _cut(tensor: CapturedTensor, positions: tuple[int, ...]) -> CapturedTensor:
    if tensor.positions == positions or not set(positions) <= set(tensor.positions):
        return tensor
    places = [tensor.positions.index(each) for each in positions]
    axis = tensor.dims.split().index(TOKENS)
    return replace(tensor, array=tensor.array.take(places, axis=axis), positions=positions)


def _refuse(site: Site, what: str, flat: CapturedTensor, like: CapturedTensor) -> Never:
    sides = f"\n  without a shape: {flat.describe()}\n  with a shape:    {like.describe()}"
    msg = f"{site}: {what}{sides}"
    raise AlignmentError(
        msg,
        expected=f"as many values, in the order `{STAGES[site.stage].dims}`",
        remedy="capture the same tokens on both sides; write the heads of a token side by side",
    )
