"""Checks that measure: floors from a control, choices and distributions, and planted faults."""

from __future__ import annotations

import numpy as np
import pytest
from checks_support import SITES, judge, make_capture, make_claim

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.base import Request
from pytest_falsify.checks.planting import MAX_VALUES, spread
from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.ledger.evidence import Outcome
from pytest_falsify.stages.vocabulary import Site

HELD, REFUTED, INCONCLUSIVE = Outcome.HELD, Outcome.REFUTED, Outcome.INCONCLUSIVE
TOKENS = 64


def rows(seed: int = 0, tokens: int = TOKENS) -> dict[Site, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {site: rng.normal(size=(tokens, 32)).astype(np.float32) for site in SITES}


def noisy(values: dict[Site, np.ndarray], size: float, seed: int) -> dict[Site, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        site: (array * (1 + size * rng.normal(size=array.shape))).astype(np.float32)
        for site, array in values.items()
    }


def verdict(kind: str, /, roles: dict[str, object], **parameters):
    names = {role: role[0] for role in ("subject", "oracle")}
    captures = {
        Request(role=role, capture=role[0], input="prompt", plan=Plan()): capture
        for role, capture in roles.items()
    }
    claim = make_claim(kind, **names, **parameters)
    return check(kind).judge(claim, captures, compare_captures)


def measured(subject, *, tokens: int = TOKENS, floor: float = 1e-3):
    oracle = rows(tokens=tokens)
    captures = {
        "subject": make_capture(values=subject(oracle)),
        "oracle": make_capture(values=oracle),
        "control": make_capture(values=noisy(oracle, floor, seed=1)),
    }
    return verdict("parity", captures, noise={"control": "c"})


def test_an_error_like_the_controls_is_noise_and_the_floor_is_recorded():
    found = measured(lambda oracle: noisy(oracle, 1e-3, seed=2))

    assert found.outcome is HELD
    assert found.observed["calibration"] == "measured"
    assert 0.5 < found.observed["worst"]["ratio"] < 2
    assert found.observed["worst"]["floor"] == pytest.approx(1e-3, rel=0.2)


def test_an_error_far_above_the_floor_is_refuted_and_named():
    def subject(oracle):
        return noisy(oracle, 1e-3, seed=2) | {SITES[1]: noisy(oracle, 2e-2, seed=3)[SITES[1]]}

    found = measured(subject)

    assert found.outcome is REFUTED
    assert str(SITES[1]) in found.reasons[0]


def test_one_bad_token_does_not_hide_behind_a_measured_floor():
    def subject(oracle):
        values = noisy(oracle, 1e-3, seed=2)
        values[SITES[1]][40] = values[SITES[1]][39]
        return values

    assert measured(subject).outcome is REFUTED


def test_too_few_tokens_to_tell_are_inconclusive_and_say_how_many_would_do():
    found = measured(lambda oracle: noisy(oracle, 3e-3, seed=2), tokens=4)

    assert found.outcome is INCONCLUSIVE
    assert "more tokens would decide" in found.reasons[0]


def test_the_control_is_asked_for_on_every_input():
    claim = make_claim("parity", subject="s", oracle="o", noise={"control": "c"})

    requests = check("parity").requests(claim)

    assert [(each.role, each.capture) for each in requests] == [
        ("subject", "s"), ("oracle", "o"), ("control", "c"),
    ]  # fmt: skip


def test_faults_are_planted_and_a_limit_that_is_too_wide_is_shown_to_miss():
    oracle = make_capture(values=rows())
    roles = {"subject": oracle, "oracle": oracle}

    tight = verdict("parity", roles, expect={"rel_l2": {"max": 1e-6}}).faults
    wide = verdict("parity", roles, expect={"rel_l2": {"max": 0.1}}).faults

    assert tight["planted"] == tight["caught"] > 0
    assert "missed" not in tight
    assert wide["caught"] < wide["planted"]
    assert "scaled by 1.03" in wide["missed"]
    assert tight["smallest_caught"] < wide["smallest_caught"]
    assert wide["smallest_caught"] == pytest.approx(0.1, rel=0.3)


def test_identical_catches_every_fault_and_one_ulp():
    oracle = make_capture(values=rows())

    faults = verdict("identical", {"subject": oracle, "oracle": oracle}).faults

    assert faults["planted"] == faults["caught"] > 0
    assert faults["smallest_caught"] < 1e-7


def test_a_refuted_check_plants_nothing():
    roles = {"subject": make_capture(values=rows(1)), "oracle": make_capture(values=rows(2))}

    assert verdict("identical", roles).faults is None


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_faults_are_spread_over_the_whole_pass_when_there_is_too_much(count):
    sites = [Site(0, layer, "attn_out") for layer in range(count)]

    chosen = spread(sites, sizes=[MAX_VALUES // 4] * count)

    assert len(chosen) == len(set(chosen)) <= max(4, min(count, 4))
    assert {chosen[0], chosen[-1]} == {sites[0], sites[-1]}


def logits(seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(12, 100)) * 3).astype(np.float32)


def answering(array: np.ndarray):
    return make_capture(sites=(), logits=array)


def near_tie() -> tuple[np.ndarray, np.ndarray]:
    """Logits with a tie at token 5, and the same with the tie gone the other way."""
    one = logits()
    best, second = np.argsort(-one[5])[:2]
    one[5, second] = one[5, best] - 1e-4
    other = one.copy()
    other[5, second] += 2e-4
    return one, other


def test_argmax_holds_on_equal_choices_and_catches_its_faults():
    found = verdict("argmax", {"subject": answering(logits()), "oracle": answering(logits())})

    assert found.outcome is HELD
    assert found.observed["flips"] == found.observed["ties"] == 0
    assert found.faults["planted"] == found.faults["caught"] == 3


def test_a_flip_is_a_tie_only_within_the_measured_noise():
    one, other = near_tie()
    control = one + 1e-3 * np.random.default_rng(3).normal(size=one.shape).astype(np.float32)
    roles = {"subject": answering(other), "oracle": answering(one)}

    alone = verdict("argmax", roles)
    with_noise = verdict("argmax", roles | {"control": answering(control)}, noise={"control": "c"})

    assert alone.outcome is REFUTED
    assert "at token 5" in alone.reasons[0]
    assert with_noise.outcome is HELD
    assert with_noise.observed["ties"] == 1


def test_a_flip_beyond_the_noise_is_refuted_with_its_margin():
    one = logits()
    other = one.copy()
    other[3] = -other[3]
    control = one + 1e-3 * np.random.default_rng(3).normal(size=one.shape).astype(np.float32)
    roles = {"subject": answering(other), "oracle": answering(one), "control": answering(control)}

    assert verdict("argmax", roles, noise={"control": "c"}).outcome is REFUTED


def test_topk_looks_further_than_argmax():
    one = logits()
    other = one.copy()
    order = np.argsort(-one[2])
    other[2, order[3]] = one[2].min() - 1
    roles = {"subject": answering(other), "oracle": answering(one)}

    assert verdict("argmax", roles).outcome is HELD
    assert verdict("topk", roles, k=5).outcome is REFUTED
    assert verdict("topk", roles, k=2).outcome is HELD


@pytest.mark.parametrize("kind", ["argmax", "topk"])
def test_nan_logits_choose_nothing(kind):
    nan = answering(np.full((12, 100), np.nan, np.float32))

    assert verdict(kind, {"subject": nan, "oracle": answering(logits())}).outcome is REFUTED


BOUNDS = {"kl": {"mean": 1e-6, "max": 1e-5}, "js": {"max": 1e-5}, "top_k": {"k": 5, "max": 1e-5}}


def test_distribution_holds_on_equal_logits_and_on_shifted_ones():
    roles = {"subject": answering(logits() + 7), "oracle": answering(logits())}

    found = verdict("distribution", roles, expect=BOUNDS)

    assert found.outcome is HELD
    assert set(found.observed) == {"kl", "js", "top_k"}
    assert found.faults["planted"] == found.faults["caught"] == 3


def test_distribution_is_refuted_by_one_token_that_the_mean_hides():
    one = logits()
    other = one.copy()
    other[7] = 0
    roles = {"subject": answering(other), "oracle": answering(one)}

    loose = verdict("distribution", roles, expect={"kl": {"mean": 10}})
    exact = verdict("distribution", roles, expect={"kl": {"mean": 10, "max": 0.1}})

    assert loose.outcome is HELD
    assert exact.outcome is REFUTED
    assert "at token 7" in exact.reasons[0]


def test_distribution_of_nan_is_refuted():
    nan = answering(np.full((12, 100), np.nan, np.float32))

    found = verdict("distribution", {"subject": nan, "oracle": answering(logits())}, expect=BOUNDS)

    assert found.outcome is REFUTED


def test_differs_holds_where_every_site_differs_enough():
    roles = {
        "subject": make_capture(values=noisy(rows(), 0.1, 1)),
        "oracle": make_capture(values=rows()),
    }

    assert verdict("differs", roles).outcome is HELD
    assert verdict("differs", roles, by=0.05).outcome is HELD
    assert verdict("differs", roles, by=0.5).outcome is REFUTED


def test_differs_is_refuted_by_one_site_that_is_the_same():
    values = noisy(rows(), 0.1, 1) | {SITES[1]: rows()[SITES[1]]}
    roles = {"subject": make_capture(values=values), "oracle": make_capture(values=rows())}

    found = verdict("differs", roles)

    assert found.outcome is REFUTED
    assert str(SITES[1]) in found.reasons[0]


def test_garbage_differs_from_anything_and_proves_nothing():
    values = {site: np.full((TOKENS, 32), np.nan, np.float32) for site in SITES}
    roles = {"subject": make_capture(values=values), "oracle": make_capture(values=rows())}

    assert verdict("differs", roles).outcome is INCONCLUSIVE


def test_a_token_that_flips_within_the_noise_is_inconclusive_and_says_what_to_use():
    one, other = near_tie()
    control = one[5:6] + 1e-3 * np.random.default_rng(3).normal(size=(1, 100)).astype(np.float32)
    best, flipped = int(one[5].argmax()), int(other[5].argmax())
    roles = {
        "subject": make_capture(sites=(), logits=other[5:6], continuation=(flipped,)),
        "oracle": make_capture(sites=(), logits=one[5:6], continuation=(best,)),
        "control": make_capture(sites=(), logits=control, continuation=(best,)),
    }

    with_noise = verdict("tokens", roles, new_tokens=1, noise={"control": "c"})
    del roles["control"]

    assert with_noise.outcome is INCONCLUSIVE
    assert "argmax" in with_noise.reasons[0]
    assert verdict("tokens", roles, new_tokens=1).outcome is REFUTED


def test_a_check_that_misses_planted_faults_says_that_it_is_vacuous():
    capture = make_capture()
    found = judge("parity", capture, capture, expect={"max_abs": {"max": 1e6}})
    assert found.outcome is HELD
    assert found.faults["caught"] < found.faults["planted"]
    assert "vacuous" in found.reasons[1]
    assert "scaled by 1.03" in found.reasons[1]
    strict = judge("parity", capture, capture, expect={"rel_l2": {"max": 1e-4}})
    assert len(strict.reasons) == 1


def test_differs_plants_equality_and_must_find_it():
    other = make_capture(values={site: np.ones((4, 8), np.float32) for site in SITES})
    found = judge("differs", other, make_capture(), by=0.1)
    assert found.faults == {"planted": len(SITES), "caught": len(SITES)}
