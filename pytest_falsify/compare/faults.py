"""Planted faults: what a numeric check must refute, put into copies of captured tensors.

Each fault is data: a name and a function from a capture and a site to the faulty tensor. None says
that the fault does not exist there (one token cannot be shifted), and so does a tensor that the
fault leaves as it was: what changes no bit tests nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.stages.vocabulary import STAGES, Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_falsify.captures.capture import Capture, CapturedTensor

    Array = NDArray[Any]

Plant = Callable[["CapturedTensor"], "Array | None"]
Refutes = Callable[[Site, "CapturedTensor"], bool]
"""Tells whether a check refutes a subject with this tensor at this site."""

SCALE = 1.03
HEADS = ("h", "k")
ROTATED = ("q_post_rope", "k_post_rope", "k_cache")
FINEST, COARSEST = 160, 0
"""Sizes tried for the smallest fault: 2^(-n/4), from 1e-12 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        plant: from a capture and one of its sites to the faulty values, or None.
    """

    name: str
    plant: Callable[[Capture, Site], Array | None]

    def planted(self, capture: Capture, site: Site) -> CapturedTensor | None:
        """Return a faulty copy of the tensor at a site, or None where the fault does not exist."""
        tensor = capture.tensors[site]
        with np.errstate(all="ignore"):
            faulty = self.plant(capture, site)
        if faulty is None:
            return None
        faulty = np.ascontiguousarray(faulty.astype(tensor.array.dtype, copy=False))
        if faulty.tobytes() == np.ascontiguousarray(tensor.array).tobytes():
            return None
        return replace(tensor, array=faulty)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """What a check made of the planted faults.

    Attributes:
        planted: how many there were.
        missed: those that it did not refute, by name and site.
    """

    planted: int
    missed: tuple[tuple[str, Site], ...]

    @property
    def caught(self) -> int:
        """How many it refuted."""
        return self.planted - len(self.missed)

    @property
    def is_vacuous(self) -> bool:
        """Whether the check proves nothing: it missed a fault, or none could be planted."""
        return self.planted == 0 or bool(self.missed)


def plant_all(
    capture: Capture,
    refutes: Refutes,
    *,
    sites: Iterable[Site] | None = None,
    faults: Iterable[Fault] | None = None,
) -> Planted:
    """Plant every fault at every site, one at a time, and ask the check about each.

    Args:
        capture: the subject's.
        refutes: the check, for one site.
        sites: where to plant; all of the capture's by default.
        faults: what to plant; ``FAULTS`` by default.
    """
    chosen = tuple(FAULTS if faults is None else faults)
    planted, missed = 0, []
    for site in capture.tensors if sites is None else sites:
        for fault in chosen:
            tensor = fault.planted(capture, site)
            if tensor is None:
                continue
            planted += 1
            if not refutes(site, tensor):
                missed.append((fault.name, site))
    return Planted(planted=planted, missed=tuple(missed))


def smallest_caught(
    capture: Capture, site: Site, refutes: Refutes, *, row: bool = False, seed: int = 0
) -> float | None:
    """Return the size of the smallest disturbance that a check still refutes at a site.

    The disturbance is Gaussian with a norm of this size times the tensor's, in all rows or in one;
    sizes are a fourth root of two apart.

    Args:
        capture: the subject's.
        site: where to disturb it.
        refutes: the check, for one site; taken to refute whatever is larger than what it refutes.
        row: disturb one row alone, by this size times that row's norm.
        seed: of the disturbance.

    Returns:
        0 when the tensor is refuted as it is, None when even a disturbance of its own size passes.
    """
    tensor = capture.tensors[site]
    if refutes(site, tensor):
        return 0.0
    disturbance = _disturbance(tensor.array, row=row, seed=seed)
    large, small = COARSEST, FINEST
    if not refutes(site, _disturbed(tensor, disturbance, large)):
        return None
    while small - large > 1:
        middle = (large + small) // 2
        if refutes(site, _disturbed(tensor, disturbance, middle)):
            large = middle
        else:
            small = middle
    return _size(large)


def _size(exponent: int) -> float:
    return float(2.0 ** (-exponent / 4))


def _disturbed(tensor: CapturedTensor, disturbance: Array, exponent: int) -> CapturedTensor:
    wide = tensor.array.astype(np.float64) + _size(exponent) * disturbance
    with np.errstate(over="ignore"):
        return replace(tensor, array=wide.astype(tensor.array.dtype))


def _disturbance(array: Array, *, row: bool, seed: int) -> Array:
    """Return Gaussian values with the array's norm, or its middle row's in that row alone."""
    generator = np.random.Generator(np.random.PCG64(seed))
    wide = np.where(np.isfinite(array.astype(np.float64)), array.astype(np.float64), 0.0)
    noise = generator.standard_normal(wide.shape)
    if row and wide.ndim > 1:
        index = np.unravel_index(math.prod(wide.shape[:-1]) // 2, wide.shape[:-1])
        keep = np.zeros_like(wide)
        keep[index] = 1.0
        wide, noise = wide * keep, noise * keep
    norm = float(np.linalg.norm(noise))
    disturbance: Array = noise * (float(np.linalg.norm(wide)) / norm if norm > 0 else 0.0)
    return disturbance


def _axis(tensor: CapturedTensor, *names: str) -> int | None:
    axes = tensor.dims.split()
    return next((axes.index(name) for name in names if name in axes), None)


def _of_values(plant: Plant) -> Callable[[Capture, Site], Array | None]:
    """Lift a fault of one tensor; ids have no scale, no sign and no infinity."""

    def lifted(capture: Capture, site: Site) -> Array | None:
        tensor = capture.tensors[site]
        is_number = tensor.array.size > 0 and tensor.array.dtype.kind not in "biu"
        return plant(tensor) if is_number and not STAGES[site.stage].is_index else None

    return lifted


def _of_any(plant: Plant) -> Callable[[Capture, Site], Array | None]:
    def lifted(capture: Capture, site: Site) -> Array | None:
        tensor = capture.tensors[site]
        return plant(tensor) if tensor.array.size > 0 else None

    return lifted


def _token_replaced(tensor: CapturedTensor) -> Array | None:
    axis = _axis(tensor, "t")
    if axis is None or tensor.array.shape[axis] < 2:  # noqa: PLR2004
        return None
    faulty = np.moveaxis(tensor.array.copy(), axis, 0)
    middle = len(faulty) // 2
    faulty[middle] = faulty[middle - 1]
    return np.moveaxis(faulty, 0, axis)


def _tokens_shifted(tensor: CapturedTensor) -> Array | None:
    axis = _axis(tensor, "t")
    return None if axis is None else np.roll(tensor.array, 1, axis)


def _heads_swapped(tensor: CapturedTensor) -> Array | None:
    axis = _axis(tensor, *HEADS)
    if axis is None or tensor.array.shape[axis] < 2:  # noqa: PLR2004
        return None
    faulty = np.moveaxis(tensor.array.copy(), axis, 0)
    faulty[[0, 1]] = faulty[[1, 0]]
    return np.moveaxis(faulty, 0, axis)


def _interleaved(capture: Capture, site: Site) -> Array | None:
    """Return halves (0..n/2, n/2..n) as pairs (0, n/2, 1, ...): the other rotary layout."""
    array = capture.tensors[site].array
    if site.stage not in ROTATED or array.shape[-1] % 2:
        return None
    halves = array.reshape(*array.shape[:-1], 2, array.shape[-1] // 2)
    return np.moveaxis(halves, -2, -1).reshape(array.shape)


def _scaled(tensor: CapturedTensor) -> Array:
    scaled: Array = tensor.array.astype(np.float64) * SCALE
    return scaled


def _sign_flipped(tensor: CapturedTensor) -> Array:
    """Flip the sign of one channel: that of median energy among those that have any."""
    flat = tensor.array.reshape(-1, tensor.array.shape[-1] if tensor.array.ndim else 1)
    wide = np.where(np.isfinite(flat.astype(np.float64)), flat.astype(np.float64), 0.0)
    energy = (wide * wide).sum(axis=0)
    order = np.argsort(energy, kind="stable")[np.count_nonzero(energy == 0) :]
    faulty = flat.astype(np.float64)
    if len(order):
        faulty[:, order[len(order) // 2]] *= -1
    return faulty.reshape(tensor.array.shape)


def _one_value(value: float) -> Plant:
    def plant(tensor: CapturedTensor) -> Array:
        faulty = tensor.array.astype(np.float64)
        faulty.reshape(-1)[faulty.size // 2] = value
        return faulty

    return plant


def _layer_exchanged(capture: Capture, site: Site) -> Array | None:
    """Return the values of the same stage in another layer: the next, or else the one before."""
    if site.layer is None:
        return None
    for layer in (site.layer + 1, site.layer - 1):
        other = capture.tensors.get(Site(site.step, layer, site.stage))
        if other is not None and other.array.shape == capture.tensors[site].array.shape:
            return other.array
    return None


FAULTS = (
    Fault(name="token replaced", plant=_of_any(_token_replaced)),
    Fault(name="tokens shifted by one", plant=_of_any(_tokens_shifted)),
    Fault(name="heads swapped", plant=_of_values(_heads_swapped)),
    Fault(name="rotary halves interleaved", plant=_interleaved),
    Fault(name="scaled by 1.03", plant=_of_values(_scaled)),
    Fault(name="sign of one channel", plant=_of_values(_sign_flipped)),
    Fault(name="+inf", plant=_of_values(_one_value(math.inf))),
    Fault(name="-inf", plant=_of_values(_one_value(-math.inf))),
    Fault(name="NaN", plant=_of_values(_one_value(math.nan))),
    Fault(name="layer exchanged", plant=_layer_exchanged),
)
"""The faults that have shipped: see the sources in docs/numerics.md."""
