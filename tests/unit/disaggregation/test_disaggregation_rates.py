"""Wilson's interval: known values, and what holds of every one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.disaggregation.rates import Rate

RATES = st.integers(1, 5000).flatmap(
    lambda total: st.builds(lambda count: Rate(count=count, total=total), st.integers(0, total))
)


# R: prop.test(x, n, correct = FALSE)$conf.int
@pytest.mark.parametrize(
    ("count", "total", "expected"),
    [(0, 10, (0.0, 0.2775)), (1, 10, (0.0179, 0.4042)), (15, 148, (0.0624, 0.1605))],
)
def test_known_intervals(count, total, expected):
    assert Rate(count=count, total=total).interval() == pytest.approx(expected, abs=5e-5)


@given(rate=RATES)
def test_an_interval_holds_the_share_and_mirrors(rate):
    low, high = rate.interval()
    assert 0 <= low <= rate.count / rate.total <= high <= 1
    other = Rate(count=rate.total - rate.count, total=rate.total).interval()
    assert other == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(rate=RATES, limit=st.floats(0, 1))
def test_a_limit_is_kept_broken_or_undecided_never_two_of_them(rate, limit):
    low, high = rate.interval()
    assert (rate.is_within(limit) is True) == (high <= limit)
    assert (rate.is_within(limit) is False) == (low > limit)
