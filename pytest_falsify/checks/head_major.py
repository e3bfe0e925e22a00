"""Tells when a tensor without a shape was written head-major: the trap that its format cannot show.

``h t d`` has as many values as ``t h d``, and an APRT file does not say which of the two it holds.
It is compared as token-major, and a reading that fits far better is told to whoever looks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_falsify.captures.unstated import FLAT
from pytest_falsify.compare.comparison import compare_tensors
from pytest_falsify.stages.vocabulary import STAGES

if TYPE_CHECKING:
    from pytest_falsify.captures.capture import Capture, CapturedTensor
    from pytest_falsify.stages.vocabulary import Site

FAR_BETTER = 0.1
"""The other reading's error over that of this one."""
HEADS = ("t h d", "t k d")


def head_major_sites(as_found: Capture, settled: Capture, other: Capture) -> tuple[Site, ...]:
    """Return the sites of a capture that fit the other side far better when read head-major.

    Args:
        as_found: the capture as it was read, with flat tensors.
        settled: the same after ``captures.unstated.agreed``.
        other: what it is compared with.
    """
    return tuple(
        site
        for site, tensor in settled.tensors.items()
        if STAGES[site.stage].dims in HEADS
        and as_found.tensors[site].dims == FLAT
        and tensor.dims in HEADS
        and site in other.tensors
        and _fits_better(site, tensor, other.tensors[site])
    )


def _fits_better(site: Site, tensor: CapturedTensor, other: CapturedTensor) -> bool:
    tokens, heads, width = tensor.array.shape
    array = tensor.array.reshape(heads, tokens, width).transpose(1, 0, 2)
    swapped = replace(tensor, array=array)
    as_read, instead = (
        compare_tensors(each, other, site=site).total.rel_l2 for each in (tensor, swapped)
    )
    return instead < FAR_BETTER * as_read
