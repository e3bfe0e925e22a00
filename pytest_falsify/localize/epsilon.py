"""The epsilon that a norm was computed with, measured from how much each row came out too small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.localize.fitting import Fitted, proportional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FEWEST_ROWS = 8
CLEARLY = 0.5
"""An epsilon has to leave so much less than a common factor does, or it may be one."""


def measured_epsilon(
    powers: Array, expected: Array, observed: Array, stated: float
) -> Fitted | None:
    """Return the epsilon of a norm x / sqrt(power + epsilon) whose rows are known.

    A row with the factor ``a`` to the right one has epsilon = (power + stated) / a^2 - power: rows
    of small power tell the most.

    Args:
        powers: (rows,) the mean square of each row of the norm's input, about its mean where the
            norm takes that away.
        expected: (rows, channels) what the norm makes with the stated epsilon, without its bias.
        observed: (rows, channels) the subject's, without the bias.
        stated: the right epsilon.

    Returns:
        The epsilon, or None where a common factor of all rows explains them as well.
    """
    sizes = (expected * expected).sum(axis=-1)
    is_known = (sizes > 0) & (powers + stated > 0)
    if is_known.sum() < FEWEST_ROWS:
        return None
    powers, expected, observed, sizes = (
        each[is_known] for each in (powers, expected, observed, sizes)
    )
    factors = (expected * observed).sum(axis=-1) / sizes
    left = ((observed - factors[:, None] * expected) ** 2).sum(axis=-1)
    variances = np.maximum(left / sizes / expected.shape[-1], np.finfo(np.float64).eps ** 2)
    if not (factors > 0).all():
        return None
    return _epsilon(powers, factors, variances, stated)


def _epsilon(powers: Array, factors: Array, variances: Array, stated: float) -> Fitted | None:
    ones = np.ones_like(factors)
    full = powers + stated
    excess = full / factors**2 - full
    weights = (factors**3 / (2 * full)) ** 2 / variances
    more, common = proportional(ones, excess, weights), proportional(ones, factors, 1 / variances)
    if more is None or common is None:
        return None
    of_epsilon = float((weights * (excess - more.value) ** 2).sum())
    of_factor = float(((factors - common.value) ** 2 / variances).sum())
    if of_epsilon > CLEARLY * of_factor:
        return None
    return Fitted(value=stated + more.value, error=more.error)
