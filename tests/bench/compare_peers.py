"""The comparators of the field at their own defaults: each says whether a pair passes."""

from __future__ import annotations

import logging
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Array = np.ndarray[Any, Any]
    Passes = Callable[[Array, Array], bool]
    """Takes the oracle's and the subject's values."""


def _does_not_raise(action: Callable[[], object]) -> bool:
    try:
        action()
    except AssertionError:
        return False
    return True


def numpy_assert_allclose() -> Passes:
    return lambda x, y: _does_not_raise(lambda: np.testing.assert_allclose(y, x))


def numpy_allclose() -> Passes:
    return lambda x, y: bool(np.allclose(y, x))


def torch_assert_close() -> Passes:
    import torch

    return lambda x, y: _does_not_raise(
        lambda: torch.testing.assert_close(torch.from_numpy(y), torch.from_numpy(x))
    )


def scipy_cosine() -> Passes:
    """Take SciPy's cosine distance at the 0.99 that the field writes next to a cosine."""
    from scipy.spatial.distance import cosine

    return lambda x, y: bool(cosine(x.reshape(-1), y.reshape(-1)) <= 1 - 0.99)


def pytest_torch() -> Passes:
    import torch
    from pytest_torch.assertions import assert_tensors_close

    return lambda x, y: _does_not_raise(
        lambda: assert_tensors_close(torch.from_numpy(y), torch.from_numpy(x))
    )


def polygraphy_simple() -> Passes:
    from polygraphy.comparator import CompareFunc

    return _polygraphy(CompareFunc.simple())


def polygraphy_cosine() -> Passes:
    from polygraphy.comparator import CosineSimilarityCompareFunc

    return _polygraphy(CosineSimilarityCompareFunc())


def _polygraphy(compare: Any) -> Passes:
    from polygraphy.comparator import IterationResult
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL

    def passes(x: Array, y: Array) -> bool:
        sides = (
            IterationResult({"tensor": each}, runner_name=name)
            for each, name in ((y, "s"), (x, "o"))
        )
        return all(bool(each) for each in compare(*sides).values())

    return passes


def msprobe() -> Passes:
    logging.disable(logging.CRITICAL)
    with redirect_stdout(StringIO()):
        from msprobe.core.compare.multiprocessing_compute import check_accuracy
        from msprobe.core.compare.npy_compare import compare_ops_apply, handle_inf_nan

    def passes(x: Array, y: Array) -> bool:
        with np.errstate(all="ignore"):
            mine, theirs = handle_inf_nan(y.copy(), x.copy())
            if not isinstance(mine, np.ndarray):
                return False
            (cosine, _, largest, *_), _ = compare_ops_apply(mine, theirs, False, "")
        return check_accuracy(cosine, largest) == "Yes"

    return passes


def sglang_rule() -> Passes:
    """1 - 2 xy / (xx + yy) <= 1e-3 in float64: the published rule of SGLang's comparator."""

    def passes(x: Array, y: Array) -> bool:
        with np.errstate(all="ignore"):
            a, b = x.astype(np.float64), y.astype(np.float64)
            return bool(1 - 2 * (a * b).sum() / (a * a + b * b).sum() <= 1e-3)

    return passes


PEERS: dict[str, Callable[[], Passes]] = {
    "torch assert_close": torch_assert_close,
    "numpy assert_allclose": numpy_assert_allclose,
    "numpy allclose": numpy_allclose,
    "pytest-torch": pytest_torch,
    "polygraphy simple": polygraphy_simple,
    "polygraphy cosine": polygraphy_cosine,
    "mindstudio-probe": msprobe,
    "scipy cosine, 0.99": scipy_cosine,
    "SGLang's rule (formula)": sglang_rule,
}


def load_peers() -> tuple[dict[str, Passes], tuple[str, ...]]:
    """Return the peers that can be imported here, and the names of those that cannot."""
    found = {}
    for name, load in PEERS.items():
        try:
            found[name] = load()
        except ImportError:
            continue
    return found, tuple(name for name in PEERS if name not in found)
