"""Wilson's interval and McNemar's test: known values, and what holds of every one."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.compare.rates import Discordance, Rate, is_kept

RATES = st.integers(1, 5000).flatmap(
    lambda total: st.builds(lambda count: Rate(count=count, total=total), st.integers(0, total))
)
CONFIDENCES = st.sampled_from([0.8, 0.9, 0.95, 0.99, 0.999])
LIMITS = st.floats(0.001, 0.999)
SPLITS = st.builds(
    lambda worse, better: Discordance(worse=worse, better=better),
    st.integers(0, 60),
    st.integers(0, 60),
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


@given(rate=RATES, confidence=CONFIDENCES)
def test_more_that_differ_move_both_bounds_up_and_more_confidence_moves_them_apart(
    rate, confidence
):
    low, high = rate.interval(confidence)
    more = Rate(count=min(rate.count + 1, rate.total), total=rate.total).interval(confidence)
    assert more[0] >= low
    assert more[1] >= high
    wider = rate.interval((1 + confidence) / 2)
    assert wider[0] <= low
    assert high <= wider[1]


# Wilson's interval covers its confidence on average, and dips near 0 and 1 (Brown, Cai and
# DasGupta, Statistical Science 16, 2001); every outcome is enumerated, none is drawn.
@pytest.mark.parametrize("total", [10, 25, 40])
def test_the_interval_covers_the_truth_as_often_as_it_says(total):
    intervals = [Rate(count=count, total=total).interval() for count in range(total + 1)]

    def covered(truth):
        return sum(
            comb(total, count) * truth**count * (1 - truth) ** (total - count)
            for count, (low, high) in enumerate(intervals)
            if low <= truth <= high
        )

    found = [covered(step / 400) for step in range(20, 381)]
    assert sum(found) / len(found) == pytest.approx(0.95, abs=0.012)
    assert min(found) > 0.89


@given(rate=RATES, limit=LIMITS, confidence=CONFIDENCES)
def test_what_is_lacking_decides_and_less_does_not(rate, limit, confidence):
    lacking = rate.lacking(limit, confidence)
    if rate.is_within(limit, confidence) is not None:
        assert lacking == 0
        return
    if lacking is None:
        assert rate.share == limit
        return

    def decides(total):
        """A share need not be a number of samples: the bounds that it would have."""
        grown = Rate(count=rate.share * total, total=total)
        return grown.is_within(limit, confidence) is not None

    wanted = rate.total + lacking
    assert decides(wanted * 1.001 + 1)
    assert lacking == 1 or not decides((wanted - 1) * 0.999)


@given(
    rate=st.integers(1, 60).flatmap(
        lambda total: st.builds(Rate, count=st.integers(0, total), total=st.just(total))
    ),
    limit=st.fractions(Fraction(1, 100), Fraction(99, 100), max_denominator=100),
)
def test_the_tail_is_that_of_all_counts(rate, limit):
    tail = sum(
        comb(rate.total, count) * limit**count * (1 - limit) ** (rate.total - count)
        for count in range(rate.count, rate.total + 1)
    )
    assert rate.chance(float(limit)) == pytest.approx(float(tail), rel=1e-9)


def test_a_share_at_its_limit_is_never_decided():
    assert Rate(count=1, total=20).lacking(0.05) is None
    assert Rate(count=0, total=20).lacking(0.0) is None


@given(split=SPLITS)
def test_chance_is_that_of_all_ways_in_which_coins_may_fall(split):
    total, rarer = split.worse + split.better, min(split.worse, split.better)
    at_least_as_uneven = sum(
        comb(total, heads) for heads in range(total + 1) if min(heads, total - heads) <= rarer
    )
    assert split.chance == pytest.approx(float(Fraction(at_least_as_uneven, 2**total)), rel=1e-12)


def test_chance_is_that_of_enumerated_coins():
    for worse, better in product(range(6), repeat=2):
        total = worse + better
        tosses = [sum(each) for each in product((0, 1), repeat=total)]
        uneven = sum(abs(2 * heads - total) >= abs(worse - better) for heads in tosses)
        found = Discordance(worse=worse, better=better).chance
        assert found == pytest.approx(uneven / len(tosses))


# R: binom.test(1, 10)$p.value, and the same of 10 of 13
@pytest.mark.parametrize(
    ("worse", "better", "expected"), [(9, 1, 0.02148), (10, 3, 0.0923), (0, 0, 1.0), (4, 4, 1.0)]
)
def test_known_chances(worse, better, expected):
    found = Discordance(worse=worse, better=better)
    assert found.chance == pytest.approx(expected, abs=5e-5)
    assert found.is_worse(0.95) == (expected <= 0.05)
    assert not Discordance(worse=better, better=worse).is_worse(0.95)


@given(split=SPLITS, confidence=CONFIDENCES)
def test_one_more_against_a_run_never_clears_it(split, confidence):
    more = Discordance(worse=split.worse + 1, better=split.better)
    assert more.is_worse(confidence) or not split.is_worse(confidence)


def test_many_discordant_samples_cost_no_precision():
    assert Discordance(worse=20_000, better=20_000).chance == 1.0
    assert 0 <= Discordance(worse=20_500, better=19_500).chance < 1e-6


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans())))
def test_only_samples_at_which_the_runs_disagree_are_counted(pairs):
    found = Discordance.of(pairs)
    assert found.worse - found.better == sum(a for a, _ in pairs) - sum(b for _, b in pairs)
    assert found.worse + found.better == sum(a != b for a, b in pairs)


def test_a_second_run_alone_refutes_and_the_limit_alone_holds():
    good, bad = Rate(count=0, total=400), Rate(count=40, total=400)
    alike, worse = Discordance(worse=3, better=2), Discordance(worse=12, better=0)
    told = {"limit": 0.02, "confidence": 0.95}
    assert is_kept(good, **told) is True
    assert is_kept(bad, **told) is False
    assert is_kept(good, paired=alike, **told) is True
    assert is_kept(bad, paired=alike, **told) is None
    assert is_kept(bad, paired=worse, **told) is False
    assert is_kept(Rate(count=3, total=400), paired=worse, **told) is False
