"""Limits refuse what goes beyond them, and say what would have passed."""

from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.compare.comparison import Comparison, compare_tensors, counting
from pytest_falsify.compare.limits import (
    LIMITS_SCHEMA,
    Limit,
    Limits,
    parse_limits,
    smallest_passing,
    violations,
)
from pytest_falsify.compare.metrics import METRICS
from pytest_falsify.compare.tally import Tolerance
from pytest_falsify.errors import ContractError, FalsifyError
from pytest_falsify.stages.vocabulary import Site

EMBEDDING, ATTENTION, INDICES = (
    Site(0, None, "embedding"),
    Site(0, 0, "attention"),
    Site(0, 0, "moe_router_indices"),
)
ORACLE = np.random.default_rng(0).standard_normal((4, 8))
LOOSEST = (Tolerance(atol=1e9, rtol=10),)
LOOSE = {
    "rel_l2": {"max": 10},
    "worst_row": {"max": 10},
    "cosine": {"min": -0.999999},
    "scale": {"min": -10, "max": 10},
    "max_abs": {"max": 1e9},
    "mean_abs": {"max": 1e9},
    "nmse_db": {"max": 100},
    "ulp": {"max": 2**63},
    "mismatched": {"max": 10**9},
    "exceeds": {"atol": 1e9, "rtol": 10, "max": 10**9},
}


def tensor(array):
    return CapturedTensor(
        array=np.asarray(array), dims="t d", positions=tuple(range(5, 5 + len(array)))
    )


def comparison(*pairs, tolerances=LOOSEST):
    subject = SimpleNamespace(tensors={site: tensor(array) for site, array, _ in pairs})
    oracle = SimpleNamespace(tensors={site: tensor(array) for site, _, array in pairs})

    def compare(subject, oracle):
        sites = (
            compare_tensors(each, oracle.tensors[site], site=site)
            for site, each in subject.tensors.items()
        )
        return Comparison(sites=tuple(sites), missing=(), subject="s", oracle="o")

    return counting(compare, tolerances)(subject, oracle)


def of(subject, oracle=ORACLE, site=ATTENTION, **options):
    return comparison((site, subject, oracle), **options)


@pytest.mark.parametrize(
    ("metric", "kept", "broken"),
    [
        ("rel_l2", {"max": 0.031}, {"max": 0.029}),
        ("worst_row", {"max": 0.031}, {"max": 0.029}),
        ("scale", {"min": 0.9, "max": 1.031}, {"max": 1.029}),
        ("scale", {"min": 1.029}, {"min": 1.031}),
        ("nmse_db", {"max": -30.4}, {"max": -30.5}),
        ("mismatched", {"max": 32}, {"max": 31}),
        ("max_abs", {"max": 1.0}, {"max": 1e-3}),
        ("mean_abs", {"max": 1.0}, {"max": 1e-3}),
        ("ulp", {"max": 10**16}, {"max": 1000}),
    ],
)
def test_a_limit_is_kept_on_one_side_and_broken_on_the_other(metric, kept, broken):
    scaled = of(1.03 * ORACLE)
    assert violations(scaled, parse_limits({metric: kept})) == ()
    (violation,) = violations(scaled, parse_limits({metric: broken}))
    assert violation.metric == metric
    assert violation.site == ATTENTION


def test_a_cosine_is_kept_on_one_side_and_broken_on_the_other():
    turned = of(ORACLE + 0.1 * np.roll(ORACLE, 1))
    cosine = turned.sites[0].total.cosine
    assert violations(turned, parse_limits({"cosine": {"min": cosine - 1e-6}})) == ()
    assert violations(turned, parse_limits({"cosine": {"min": cosine + 1e-6}}))


@pytest.mark.parametrize(
    "limits",
    [
        {"cosine": {"min": -1}},
        {"cosine": {"min": -2}},
        {"cosine": {"min": 1.1}},
        {"rel_l2": {"max": -1e-3}},
        {"max_abs": {"max": -1}},
        {"mismatched": {"max": -1}},
        {"ulp": {"max": -1}},
        {"rel_l2": {"max": 0}, "stages": {"attention": {"worst_row": {"max": -1}}}},
    ],
)
def test_a_limit_that_every_subject_keeps_or_none_can_is_refused(limits):
    with pytest.raises(ContractError):
        parse_limits(limits)
    assert not jsonschema.Draft202012Validator(LIMITS_SCHEMA).is_valid(limits)


def test_a_bad_token_breaks_the_worst_row_although_the_total_is_within():
    oracle = np.random.default_rng(1).standard_normal((2048, 8))
    subject = oracle.copy()
    subject[17] = -oracle[17]
    limits = parse_limits({"rel_l2": {"max": 0.05}, "worst_row": {"max": 0.05}})
    (violation,) = violations(of(subject, oracle), limits)
    assert violation.metric == "worst_row"
    assert violation.observed == pytest.approx(2)
    assert violation.position == {"t": 22}


@pytest.mark.parametrize(
    ("stray", "there"), [(np.nan, 0.0), (np.nan, np.nan), (np.inf, -np.inf), (0.0, np.inf)]
)
def test_a_stray_value_breaks_every_limit_however_loose(stray, there):
    subject, oracle = ORACLE.copy(), ORACLE.copy()
    subject[2, 3], oracle[2, 3] = stray, there
    found = violations(of(subject, oracle), parse_limits(LOOSE))
    assert {each.metric for each in found} == set(METRICS)
    assert all(each.position == {"t": 7, "d": 3} for each in found)
    assert "1 NaN or unmatched infinite values at t=7, d=3" in str(found[0])


def test_a_site_without_values_breaks_every_limit():
    found = violations(of(np.zeros((0, 8)), np.zeros((0, 8))), parse_limits(LOOSE))
    assert {each.metric for each in found} == set(METRICS)
    assert "nothing was compared" in str(found[0])


def test_an_undefined_scale_breaks_its_limits():
    found = of(ORACLE, np.zeros_like(ORACLE))
    assert violations(found, parse_limits({"scale": {"min": -1e9}}))
    assert violations(found, parse_limits({"scale": {"max": 1e9}}))


def test_violations_name_the_element_or_the_row_they_are_about():
    subject = ORACLE.copy()
    subject[1, 6] += 1
    limits = parse_limits({name: {"max": 0} for name in ("max_abs", "ulp", "mismatched")})
    by_metric = {each.metric: each.position for each in violations(of(subject), limits)}
    assert by_metric == {
        "max_abs": {"t": 6, "d": 6},
        "ulp": {"t": 6},
        "mismatched": {"t": 6},
    }


def test_a_stage_can_have_its_own_limit_for_one_metric():
    limits = parse_limits(
        {
            "rel_l2": {"max": 1e-3},
            "scale": {"max": 1.001},
            "stages": {"attention": {"rel_l2": {"max": 0.1}}},
        }
    )
    found = violations(
        comparison((EMBEDDING, 1.03 * ORACLE, ORACLE), (ATTENTION, 1.03 * ORACLE, ORACLE)), limits
    )
    assert [(each.site.stage, each.metric) for each in found] == [
        ("embedding", "rel_l2"),
        ("embedding", "scale"),
        ("attention", "scale"),
    ]


def test_ids_are_judged_by_equality_whatever_the_limits_say():
    ids = np.array([[7, 3], [2, 9]])
    limits = parse_limits({"rel_l2": {"max": 10}})
    assert violations(of(ids, ids, INDICES), limits) == ()
    (violation,) = violations(of(ids + np.array([[0, 0], [0, 1]]), ids, INDICES), limits)
    assert (violation.metric, violation.observed) == ("mismatched", 1)


def test_a_stage_of_ids_can_be_allowed_a_number_of_mismatches():
    ids = np.array([[7, 3], [2, 9]])
    own = {"rel_l2": {"max": 10}, "stages": {"moe_router_indices": {"mismatched": {"max": 1}}}}
    assert violations(of(ids + np.array([[0, 0], [0, 1]]), ids, INDICES), parse_limits(own)) == ()


@given(st.floats(-1e-2, 1e-2), st.floats(1e-9, 1e-1), st.integers(0, 2**32 - 1))
def test_the_smallest_passing_limits_pass_and_are_tight(shift, noise, seed):
    generator = np.random.default_rng(seed)
    subject = ORACLE * (1 + shift) + noise * generator.standard_normal(ORACLE.shape)
    found = comparison((EMBEDDING, subject, ORACLE), (ATTENTION, subject + 0.01, ORACLE))
    stated = {**LOOSE, "stages": {"attention": {"rel_l2": {"max": 1.0}}}}
    tightest = smallest_passing(found, parse_limits(stated))
    assert tightest.hopeless == ()
    assert violations(found, parse_limits(tightest.value)) == ()
    for metric, sides in tightest.value.items():
        for side, value in sides.items() if metric not in {"stages", "exceeds"} else ():
            centre = METRICS[metric].centre
            towards = -1 if side == "max" else 1
            inwards = value + towards * max(0.02 * abs(value - centre), 1e-9)
            tighter = Limits(default=(Limit(metric=metric, side=side, value=inwards),))
            assert violations(found, tighter), (metric, side)


def test_opposite_directions_have_no_cosine_that_would_pass():
    found = smallest_passing(of(-ORACLE), parse_limits({"cosine": {"min": 0.9}}))
    assert (found.value, found.hopeless) == ({}, ("cosine",))


def test_values_beyond_a_tolerance_are_allowed_up_to_a_number():
    stated = {"exceeds": {"atol": 1e-5, "rtol": 1e-3, "max": 2}}
    limits = parse_limits(stated)
    assert limits.tolerances == (Tolerance(atol=1e-5, rtol=1e-3),)
    subject = ORACLE.copy()
    subject[0, :2] *= 1.01
    assert violations(of(subject, tolerances=limits.tolerances), limits) == ()
    subject[2, 3] += 1
    found = of(subject, tolerances=limits.tolerances)
    (violation,) = violations(found, limits)
    assert (violation.observed, violation.position) == (3, {"t": 7, "d": 3})
    assert str(violation.limit) == "exceeds: {atol: 1e-05, rtol: 0.001, max: 2}"
    tightest = smallest_passing(found, limits).value
    assert tightest == {"exceeds": {"atol": 1e-5, "rtol": 1e-3, "max": 3}}
    assert violations(found, parse_limits(tightest)) == ()


def test_a_stage_can_have_its_own_tolerance():
    own = {"exceeds": {"atol": 0, "rtol": 0.5, "max": 0}}
    limits = parse_limits(
        {"exceeds": {"atol": 0, "rtol": 0, "max": 0}, "stages": {"attention": own}}
    )
    found = comparison(
        (EMBEDDING, 1.1 * ORACLE, ORACLE),
        (ATTENTION, 1.1 * ORACLE, ORACLE),
        tolerances=limits.tolerances,
    )
    assert [each.site for each in violations(found, limits)] == [EMBEDDING]


def test_what_was_not_counted_breaks_its_limit():
    limits = parse_limits({"exceeds": {"atol": 1, "rtol": 1, "max": 100}})
    assert violations(of(ORACLE, tolerances=()), limits)
    assert violations(of(ORACLE), limits)


def test_no_limit_lets_a_nan_pass():
    subject = ORACLE.copy()
    subject[0, 0] = np.nan
    found = smallest_passing(of(subject), parse_limits({"rel_l2": {"max": 1}}))
    assert (found.value, found.hopeless) == ({}, ("rel_l2",))
    assert str(found) == "no limit of rel_l2"


def test_the_smallest_passing_limits_read_as_a_contract_states_them():
    found = smallest_passing(
        of(1.5 * ORACLE), parse_limits({"rel_l2": {"max": 1}, "scale": {"max": 1, "min": 0}})
    )
    assert str(found) == "{rel_l2: {max: 0.5}, scale: {max: 1.5, min: 1.5}}"


def test_equal_tensors_keep_a_limit_in_decibels_as_it_was_stated():
    found = smallest_passing(of(ORACLE), parse_limits({"nmse_db": {"max": -60}}))
    assert found.value == {"nmse_db": {"max": -60}}


@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"stages": {"attention": {"rel_l2": {"max": 1}}}},
        {"rel_l3": {"max": 1}},
        {"rel_l2": 1e-3},
        {"rel_l2": {}},
        {"rel_l2": {"min": 1}},
        {"rel_l2": {"max": "1e-3"}},
        {"rel_l2": {"max": True}},
        {"rel_l2": {"max": 1}, "stages": {"attention": {"nope": {"max": 1}}}},
        {"rel_l2": {"max": 1, "atol": 1, "rtol": 1}},
        {"exceeds": {"max": 0}},
        {"exceeds": {"atol": 1, "max": 0}},
        {"exceeds": {"atol": 1, "rtol": 1}},
        {"exceeds": {"atol": -1, "rtol": 1, "max": 0}},
        {"exceeds": {"atol": 1, "rtol": 1, "max": 0, "min": 0}},
    ],
)
def test_what_is_not_a_limit_is_refused_by_the_parser_and_by_the_schema(stated):
    with pytest.raises(ContractError):
        parse_limits(stated)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(stated, LIMITS_SCHEMA)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_limit_that_could_not_fail_is_refused(value):
    with pytest.raises(ContractError):
        parse_limits({"rel_l2": {"max": value}})


def test_an_unknown_stage_is_refused():
    with pytest.raises(FalsifyError, match="unknown stage"):
        parse_limits({"rel_l2": {"max": 1}, "stages": {"nope": {"rel_l2": {"max": 1}}}})


def test_the_schema_takes_what_the_parser_takes():
    stated = {**LOOSE, "stages": {"layer_output": {"rel_l2": {"max": 1}}}}
    jsonschema.Draft202012Validator.check_schema(LIMITS_SCHEMA)
    jsonschema.validate(stated, LIMITS_SCHEMA)
    assert parse_limits(stated).of("post_ffn_residual")[0] == Limit(
        metric="rel_l2", side="max", value=1
    )
