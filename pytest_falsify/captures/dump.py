"""Dumps of caches by other tools: an npz with ``layer_<i>_<point>_key`` and ``_value``.

The axes are (heads, tokens, channels). A member ``metadata`` is no tensor. What was fed is not
stated.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.tensor_file import dtype_named
from pytest_falsify.captures.unstated import unstated_capture
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import TRANSFER, Site

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture

NPZ = ".npz"
POINTS = {"after_prefill": 0, "after_transfer": TRANSFER, "during_decode": 1}
HALVES = {"key": "k_cache", "value": "v_cache"}
_NAME = re.compile(rf"layer_(\d+)_({'|'.join(POINTS)})_({'|'.join(HALVES)})")
_METADATA = "metadata"


def read_dump(path: Path) -> Capture:
    """Read a dump of caches.

    Raises:
        CaptureError: when it is no npz, holds something else, or nothing.
    """
    tensors: dict[Site, CapturedTensor] = {}
    try:
        with np.load(path, allow_pickle=False) as members:
            for name in members.files:
                if name != _METADATA:
                    site = _site(name, path)
                    tensors[site] = _cache(members[name], name, path)
    except (OSError, ValueError, EOFError) as error:
        msg = f"it cannot be read: {error}"
        raise CaptureError(msg, path=path, expected="an npz of arrays of numbers") from error
    if not tensors:
        msg = "it holds no cache"
        raise CaptureError(msg, path=path, expected="layer_<i>_<point>_key and _value")
    return unstated_capture(tensors, source="npz")


def _site(name: str, path: Path) -> Site:
    match = _NAME.fullmatch(name)
    if match is None:
        msg = f"`{name}` is no cache"
        expected = f"layer_<i>_<point>_key or _value, the point one of {', '.join(POINTS)}"
        raise CaptureError(msg, path=path, expected=expected)
    return Site(POINTS[match[2]], int(match[1]), HALVES[match[3]])


def _cache(array: np.ndarray[Any, Any], name: str, path: Path) -> CapturedTensor:
    if array.ndim != 3 or dtype_named(array.dtype.name) is None:  # noqa: PLR2004
        msg = f"`{name}` is {array.dtype} of shape {list(array.shape)}"
        raise CaptureError(msg, path=path, expected="numbers, (heads, tokens, channels)")
    return CapturedTensor(array=array, dims="k t d", positions=tuple(range(array.shape[1])))
