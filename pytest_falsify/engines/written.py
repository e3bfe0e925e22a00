"""What a program wrote, held against what it was asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.captures.aprt import SUFFIX as APRT_SUFFIX
from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.folder import read_captures
from pytest_falsify.captures.unstated import FLAT, LAST_TOKEN_STAGES, TOKENS, states_inputs
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES
from pytest_falsify.words import number_are, number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_falsify.engines.dimensions import Dimensions
    from pytest_falsify.stages.vocabulary import Site

FORMATS = {"aprt": APRT_SUFFIX, "npy": ".npy", "safetensors": ".safetensors"}
SUFFIXES = tuple(FORMATS.values())
MASKS = {"attn_softmax": "zero"}
_MOST_LISTED = 5


def read_written(
    folder: Path,
    sites: Sequence[Site],
    *,
    tokens: tuple[int, ...],
    dimensions: Dimensions | None,
    since_ns: int,
    form: str | None = None,
) -> dict[Site, CapturedTensor]:
    """Return the tensors of some sites, each proven to be of this run as far as can be told.

    Args:
        folder: where the program wrote.
        sites: what it was asked for.
        tokens: what it was fed.
        dimensions: the sizes of the model; None: the tensors stay as flat as they are.
        since_ns: when it was started, by the clock of the file system.
        form: the format that it promised, one of ``FORMATS``; None: any.

    Raises:
        CaptureError: when a site is missing, a file is older than the run or states another
            input, or a tensor has not the size that the model and the tokens ask for.
    """
    _must_be_new(folder, since_ns, SUFFIXES if form is None else (FORMATS[form],))
    found = read_captures(folder, ignore_unknown=True)
    if states_inputs(found) and found.inputs.tokens != tokens:
        msg = f"what it wrote is of {number_of(len(found.inputs.tokens), 'other token')}"
        raise CaptureError(msg, path=folder, expected="a capture of the tokens that it was given")
    missing = [site for site in sites if site not in found.tensors]
    if missing:
        stages = number_of(len(missing), "stage that it promised is", "stages that it promised are")
        msg = f"{stages} missing: {_listed(missing)}"
        raise CaptureError(
            msg,
            path=folder,
            expected=f"{number_of(len(sites), 'site')}; it wrote {len(found.tensors)}",
            remedy="write them, or leave them out of the capture's `stages`",
        )
    copies = {site: _copy(found.tensors[site]) for site in sites}
    return {site: shaped(site, each, len(tokens), dimensions) for site, each in copies.items()}


def _copy(tensor: CapturedTensor) -> CapturedTensor:
    """Return a tensor of its own: the file that it is mapped from will be removed."""
    return replace(tensor, array=np.array(tensor.array))


def _must_be_new(folder: Path, since_ns: int, suffixes: tuple[str, ...]) -> None:
    files = [each for each in folder.rglob("*") if each.suffix in suffixes]
    if not files:
        msg = "the program wrote no tensors"
        raise CaptureError(msg, path=folder, expected=f"files that end in {', '.join(suffixes)}")
    stale = sorted(each for each in files if each.stat().st_mtime_ns < since_ns)
    if stale:
        msg = f"{number_are(len(stale), 'file')} stale, written before this run"
        raise CaptureError(
            msg,
            path=stale[0],
            expected="files that this run wrote",
            remedy="write into the folder that {out} names, or remove what an older run left",
        )


def shaped(
    site: Site, tensor: CapturedTensor, tokens: int, dimensions: Dimensions | None
) -> CapturedTensor:
    """Return a tensor of a prefill in the dims of its stage, with its positions.

    Args:
        site: where it was observed.
        tensor: flat, or in the stage's dims.
        tokens: how many were fed.
        dimensions: the sizes of the model; None: it stays as it is.

    Raises:
        CaptureError: when its size is not that of the stage.
    """
    shape = dimensions.shape(site.stage, tokens) if dimensions else None
    if shape is None or dimensions is None:
        return tensor
    if tensor.dims not in {FLAT, STAGES[site.stage].dims}:
        return tensor
    fits = [(shape, tuple(range(tokens)))]
    if site.stage in LAST_TOKEN_STAGES:
        fits.append((_of_one_token(site, shape), (tokens - 1,)))
    for wanted, positions in fits:
        if tensor.array.size == int(np.prod(wanted)) and _agree(tensor, wanted):
            return CapturedTensor(
                array=tensor.array.reshape(wanted),
                dims=STAGES[site.stage].dims,
                positions=positions,
                mask=MASKS.get(site.stage, tensor.mask),
            )
    sizes = " or ".join(f"{'x'.join(map(str, each))}" for each, _ in fits)
    msg = f"{site} has {tensor.array.size} values, of the shape {list(tensor.array.shape)}"
    raise CaptureError(
        msg, expected=f"{sizes}, the axes `{STAGES[site.stage].dims}` of {tokens} tokens"
    )


def _agree(tensor: CapturedTensor, shape: Sequence[int]) -> bool:
    return tensor.dims == FLAT or tensor.array.shape == tuple(shape)


def _of_one_token(site: Site, shape: Sequence[int]) -> tuple[int, ...]:
    names = STAGES[site.stage].dims.split()
    return tuple(1 if name == TOKENS else length for name, length in zip(names, shape, strict=True))


def _listed(sites: Sequence[Site]) -> str:
    shown = ", ".join(map(str, sites[:_MOST_LISTED]))
    return shown if len(sites) <= _MOST_LISTED else f"{shown}, ..."


def logits_of(tensors: Mapping[Site, CapturedTensor], site: Site) -> np.ndarray[Any, Any] | None:
    """Return the logits among some tensors, (tokens, vocab); None where they are not shown.

    Raises:
        CaptureError: when they are flat, so that the vocabulary's size is not known.
    """
    found = tensors.get(site)
    if found is None:
        return None
    if found.dims == FLAT:
        msg = f"{site} states no shape, and the model's folder has no config.json to tell it"
        raise CaptureError(msg, remedy="write it as .npy or .safetensors, which state their shape")
    return found.array
