"""A floor that was measured tells noise from a fault, and says when it cannot."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.compare.comparison import Comparison, compare_tensors
from pytest_falsify.compare.noise import (
    Judgement,
    judge_noise,
    judge_site,
    rounded_at_random,
    unit_roundoff,
)
from pytest_falsify.stages.vocabulary import Site

SITE = Site(0, 0, "attn_out")
IDS = Site(0, 0, "moe_router_indices")
TOKENS = 256
ORACLE = np.random.default_rng(0).standard_normal((TOKENS, 16)).astype(np.float32)


def noisy(size, seed, oracle=ORACLE):
    generator = np.random.default_rng(seed)
    return (oracle + size * generator.standard_normal(oracle.shape)).astype(oracle.dtype)


def compared(array, oracle=ORACLE, site=SITE):
    tensors = (
        CapturedTensor(array=each, dims="t d", positions=tuple(range(len(each))))
        for each in (array, oracle)
    )
    return compare_tensors(*tensors, site=site)


def judged(subject, control, **options):
    return judge_site(compared(subject), compared(control), **options)


@pytest.mark.parametrize("seed", range(1, 21))
def test_the_controls_own_size_of_error_is_noise(seed):
    found = judged(noisy(1e-2, seed), noisy(1e-2, seed + 100))
    assert found.judgement is Judgement.NOISE
    assert found.low <= found.ratio <= found.high
    assert found.ratio == pytest.approx(1, abs=0.1)
    assert found.floor == pytest.approx(1e-2, rel=0.1)
    assert found.more_tokens is None


@pytest.mark.parametrize("seed", range(1, 21))
def test_five_times_the_controls_error_is_a_bug(seed):
    found = judged(noisy(5e-2, seed), noisy(1e-2, seed + 100))
    assert found.judgement is Judgement.BUG
    assert found.low > 3


def test_an_error_at_the_limit_is_inconclusive_and_says_how_many_tokens_would_decide():
    found = judged(noisy(2.98e-2, 1), noisy(1e-2, 2))
    assert found.judgement is Judgement.INCONCLUSIVE
    assert found.low < 3 < found.high
    assert found.more_tokens > 0
    enough = np.random.default_rng(3).standard_normal((TOKENS + found.more_tokens, 16))
    enough = enough.astype(np.float32)
    decided = judge_site(
        compared(noisy(2.98e-2, 4, enough), enough), compared(noisy(1e-2, 5, enough), enough)
    )
    assert decided.high - decided.low < (found.high - found.low) / 2


def test_one_bad_token_is_a_bug_although_the_total_is_within():
    subject = noisy(1e-2, 1)
    subject[77] += 0.2
    found = judged(subject, noisy(1e-2, 2))
    assert found.ratio < 3
    assert found.judgement is Judgement.BUG
    assert found.row_position == {"t": 77}


def test_a_scale_is_a_bug_although_its_error_is_within():
    oracle = ORACLE.astype(np.float32)
    subject = compared(noisy(1e-2, 1, np.float32(1.02) * oracle), oracle)
    found = judge_site(subject, compared(noisy(1e-2, 2), oracle))
    assert found.high < 3
    assert found.judgement is Judgement.BUG
    assert found.scale == pytest.approx(1.02, abs=1e-3)
    assert "scaled by 1.02" in found.reason


def test_a_scale_that_the_control_has_too_is_noise():
    scaled = np.float32(1.02) * ORACLE
    found = judged(noisy(1e-2, 1, scaled), noisy(1e-2, 2, scaled))
    assert found.judgement is Judgement.NOISE


def test_a_row_that_the_control_hits_by_chance_does_not_raise_its_ratio():
    control = noisy(1e-2, 2)
    control[10] = ORACLE[10]
    found = judged(noisy(1e-2, 1), control)
    assert found.judgement is Judgement.NOISE
    assert found.row_ratio < 4


def test_few_rows_are_inconclusive_unless_it_is_gross_or_exact():
    few = slice(0, 4)
    oracle = ORACLE[few]
    control = compared(noisy(1e-2, 2)[few], oracle)

    def found(size):
        return judge_site(compared(noisy(size, 1)[few], oracle), control)

    assert found(1e-2).judgement is Judgement.INCONCLUSIVE
    assert found(1e-2).more_tokens == 4
    assert found(1.0).judgement is Judgement.BUG
    assert found(0.0).judgement is Judgement.NOISE


def test_an_exact_control_still_allows_a_rounding():
    oracle = ORACLE.astype(np.float64)
    subject = compared((oracle * (1 + 3e-8)).astype(np.float32), oracle)
    control = compared(oracle, oracle)
    assert judge_site(subject, control).judgement is Judgement.NOISE
    assert judge_site(compared(1.001 * ORACLE, oracle), control).judgement is Judgement.BUG


@pytest.mark.parametrize("stray", [np.nan, np.inf])
def test_a_stray_value_is_a_bug_and_in_the_control_no_floor(stray):
    broken = noisy(1e-2, 1)
    broken[3, 4] = stray
    assert judged(broken, noisy(1e-2, 2)).judgement is Judgement.BUG
    assert judged(noisy(1e-2, 2), broken).judgement is Judgement.INCONCLUSIVE


def test_a_site_that_the_control_does_not_show_is_inconclusive():
    subject = Comparison(sites=(compared(ORACLE),), missing=(), subject="s", oracle="o")
    control = Comparison(sites=(), missing=(), subject="c", oracle="o")
    (found,) = judge_noise(subject, control)
    assert found.judgement is Judgement.INCONCLUSIVE


def test_nothing_compared_is_inconclusive():
    hollow = compared(ORACLE[:0], ORACLE[:0])
    assert judge_site(hollow, hollow).judgement is Judgement.INCONCLUSIVE


@pytest.mark.parametrize(
    ("subject", "control", "expected"),
    [
        (0, 0, Judgement.NOISE),
        (0, 3, Judgement.NOISE),
        (2, 0, Judgement.BUG),
        (2, 3, Judgement.INCONCLUSIVE),
    ],
)
def test_ids_are_judged_by_equality(subject, control, expected):
    ids = np.arange(40).reshape(20, 2)

    def differing(count):
        changed = ids.copy()
        changed.reshape(-1)[:count] += 1
        return compared(changed, ids, IDS)

    assert judge_site(differing(subject), differing(control)).judgement is expected


def test_the_same_seed_gives_the_same_judgement():
    pair = noisy(2e-2, 1), noisy(1e-2, 2)
    assert judged(*pair, seed=5) == judged(*pair, seed=5)


def test_zero_everywhere_is_noise():
    zeros = np.zeros((10, 4), np.float32)
    found = judge_site(compared(zeros, zeros), compared(zeros, zeros))
    assert found.judgement is Judgement.NOISE


def test_random_rounding_stays_within_one_rounding_and_uses_all_of_it():
    values = np.full(10_000, 3.0, np.float32)
    relative = rounded_at_random(values, ml_dtypes.bfloat16, seed=1) / values - 1
    assert np.abs(relative).max() <= 2**-9 * 1.001 * 2
    assert np.abs(relative).max() > 2**-9 * 0.99
    assert relative.mean() == pytest.approx(0, abs=1e-4)


def test_the_unit_roundoff_is_half_the_distance_of_two_floats():
    assert unit_roundoff(np.float32) == 2**-24
    assert unit_roundoff("bfloat16") == 2**-8
    assert unit_roundoff(np.int64) == 0


STEPS = 24


def at_step(step, subject, oracle, stage="attention", *, positions=None, dims="t d"):
    positions = (TOKENS + step,) if positions is None else positions
    tensors = (
        CapturedTensor(array=each, dims=dims, positions=positions) for each in (subject, oracle)
    )
    return compare_tensors(*tensors, site=Site(step, 0, stage))


def decoded(arrays, **options):
    sites = tuple(
        at_step(step, arrays[step - 1 : step], ORACLE[step - 1 : step], **options)
        for step in range(1, STEPS + 1)
    )
    return Comparison(sites=sites, missing=(), subject="s", oracle="o")


def test_decode_steps_are_judged_together():
    control = decoded(noisy(1e-2, 2))
    (noise,) = judge_noise(decoded(noisy(1e-2, 1)), control)
    (bug,) = judge_noise(decoded(noisy(5e-2, 1)), control)
    assert (noise.judgement, noise.steps) == (Judgement.NOISE, STEPS)
    assert (bug.judgement, bug.steps) == (Judgement.BUG, STEPS)
    assert bug.reason.startswith(f"over {STEPS} decode steps: ")
    alone = judge_site(decoded(noisy(1e-2, 1)).sites[0], control.sites[0])
    assert (alone.judgement, alone.steps) == (Judgement.INCONCLUSIVE, 1)


def test_a_bad_step_is_a_bug_at_the_first_of_them():
    subject = noisy(1e-2, 1)
    subject[[6, 9]] += [[0.3], [0.5]]
    (found,) = judge_noise(decoded(subject), decoded(noisy(1e-2, 2)))
    assert found.judgement is Judgement.BUG
    assert found.site == Site(7, 0, "attention")
    assert found.row_position == {"t": TOKENS + 7}


def test_a_stray_value_is_a_bug_at_its_step():
    subject = noisy(1e-2, 1)
    subject[4, 3] = np.nan
    (found,) = judge_noise(decoded(subject), decoded(noisy(1e-2, 2)))
    assert found.judgement is Judgement.BUG
    assert found.site == Site(5, 0, "attention")


def test_a_row_that_the_control_hits_by_chance_is_no_bug_at_its_step():
    control = noisy(1e-2, 2)
    control[10] = ORACLE[10] + 1e-5
    (found,) = judge_noise(decoded(noisy(1e-2, 1)), decoded(control))
    assert found.judgement is Judgement.NOISE


def test_steps_and_prefill_stages_and_layers_are_not_mixed():
    sites = (
        compared(noisy(1e-2, 1)),
        *(at_step(n, ORACLE[n : n + 1], ORACLE[n : n + 1]) for n in (1, 2)),
        *(at_step(n, ORACLE[n : n + 1], ORACLE[n : n + 1], "attn_out") for n in (1, 2)),
    )
    both = Comparison(sites=sites, missing=(), subject="s", oracle="o")
    found = judge_noise(both, both)
    assert [(each.site.step, each.site.stage, each.steps) for each in found] == [
        (0, "attn_out", 1),
        (1, "attention", 2),
        (1, "attn_out", 2),
    ]


def test_a_cache_that_holds_the_same_tokens_at_every_step_is_not_pooled():
    sites = tuple(
        at_step(step, ORACLE[:step], ORACLE[:step], "attn_out", positions=tuple(range(step)))
        for step in range(9, 12)
    )
    both = Comparison(sites=sites, missing=(), subject="s", oracle="o")
    assert [each.steps for each in judge_noise(both, both)] == [1, 1, 1]


def test_scores_whose_rows_grow_with_the_steps_are_pooled_and_placed():
    def scores(size, seed):
        generator = np.random.default_rng(seed)
        sites = []
        for step in range(1, STEPS + 1):
            oracle = np.random.default_rng(step).standard_normal((4, 1, 5 + step))
            subject = oracle * (1 + size * generator.standard_normal(oracle.shape))
            subject[2] += (size > 0 and step == 3 and seed == 1) * 5.0
            sites.append(at_step(step, subject, oracle, "attn_scores", dims="h t s"))
        return Comparison(sites=tuple(sites), missing=(), subject="s", oracle="o")

    (found,) = judge_noise(scores(1e-2, 1), scores(1e-2, 2))
    assert (found.judgement, found.site.step) == (Judgement.BUG, 3)
    assert found.row_position == {"h": 2, "t": TOKENS + 3}


def test_a_step_that_the_control_does_not_show_leaves_its_pool_undecided():
    subject, control = decoded(noisy(1e-2, 1)), decoded(noisy(1e-2, 2))
    (found,) = judge_noise(subject, replace(control, sites=control.sites[1:]))
    assert found.judgement is Judgement.INCONCLUSIVE
