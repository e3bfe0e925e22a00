"""Planted faults are real, and a check that misses one is vacuous."""

import numpy as np
import pytest

from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.compare.comparison import Comparison, compare_tensors
from pytest_falsify.compare.faults import FAULTS, plant_all, smallest_caught
from pytest_falsify.compare.limits import parse_limits, violations
from pytest_falsify.stages.vocabulary import Site

QUERY, KEY, OUT, NEXT, IDS = (
    Site(0, 0, "q_post_rope"),
    Site(0, 0, "k_post_rope"),
    Site(0, 0, "attn_out"),
    Site(0, 1, "attn_out"),
    Site(0, 0, "moe_router_indices"),
)
FAULT = {fault.name: fault for fault in FAULTS}
generator = np.random.default_rng(0)


def tensor(array, dims):
    return CapturedTensor(array=array, dims=dims, positions=tuple(range(len(array))))


def random(*shape):
    return generator.standard_normal(shape).astype(np.float32)


TENSORS = {
    QUERY: tensor(random(6, 4, 8), "t h d"),
    KEY: tensor(random(6, 2, 8), "t k d"),
    OUT: tensor(random(6, 32), "t d"),
    NEXT: tensor(random(6, 32), "t d"),
    IDS: tensor(np.arange(12).reshape(6, 2), "t e"),
}
CAPTURE = Capture(
    identity=Identity(engine="e", versions={}, weights="w", settings={}, device="cpu"),
    inputs=TokenInputs(name="p", tokens=tuple(range(6))),
    plan=Plan(),
    tensors=TENSORS,
    logits=(),
)


def refuted_by(limits):
    parsed = parse_limits(limits)

    def refutes(site, subject):
        compared = compare_tensors(subject, TENSORS[site], site=site)
        return bool(
            violations(Comparison(sites=(compared,), missing=(), subject="", oracle=""), parsed)
        )

    return refutes


STRICT = refuted_by({"rel_l2": {"max": 1e-3}, "worst_row": {"max": 1e-3}})


def test_every_fault_is_planted_somewhere_and_changes_something():
    planted = {
        (fault.name, site): fault.planted(CAPTURE, site) for fault in FAULTS for site in TENSORS
    }
    present = {key for key, value in planted.items() if value is not None}
    assert {name for name, _ in present} == set(FAULT)
    for (_, site), value in planted.items():
        if value is not None:
            assert value.array.shape == TENSORS[site].array.shape
            assert value.array.dtype == TENSORS[site].array.dtype
            assert value.array.tobytes() != TENSORS[site].array.tobytes()


def test_planting_leaves_the_capture_as_it_was():
    before = {site: each.array.tobytes() for site, each in TENSORS.items()}
    plant_all(CAPTURE, STRICT)
    assert before == {site: each.array.tobytes() for site, each in TENSORS.items()}


def test_a_strict_check_catches_every_fault():
    found = plant_all(CAPTURE, STRICT)
    assert found.missed == ()
    assert found.caught == found.planted > 30
    assert not found.is_vacuous


def test_a_cosine_misses_the_scale_and_is_vacuous():
    found = plant_all(CAPTURE, refuted_by({"cosine": {"min": 0.99}}), sites=[OUT])
    assert ("scaled by 1.03", OUT) in found.missed
    assert found.caught == found.planted - len(found.missed)
    assert found.is_vacuous


def test_a_check_without_a_fault_to_catch_is_vacuous():
    assert plant_all(CAPTURE, STRICT, sites=[]).is_vacuous


@pytest.mark.parametrize(
    ("name", "site", "expected"),
    [
        ("token replaced", OUT, lambda x: np.concatenate([x[:3], x[2:3], x[4:]])),
        ("tokens shifted by one", OUT, lambda x: np.roll(x, 1, 0)),
        ("heads swapped", QUERY, lambda x: x[:, [1, 0, 2, 3]]),
        ("rotary halves interleaved", KEY, lambda x: x[..., [0, 4, 1, 5, 2, 6, 3, 7]]),
        ("scaled by 1.03", OUT, lambda x: (x.astype(float) * 1.03).astype(np.float32)),
        ("layer exchanged", OUT, lambda _: TENSORS[NEXT].array),
        ("layer exchanged", NEXT, lambda _: TENSORS[OUT].array),
    ],
)
def test_a_fault_is_what_its_name_says(name, site, expected):
    found = FAULT[name].planted(CAPTURE, site)
    np.testing.assert_array_equal(found.array, expected(TENSORS[site].array))


def test_the_sign_of_exactly_one_channel_flips():
    found = FAULT["sign of one channel"].planted(CAPTURE, OUT).array
    (changed,) = np.flatnonzero((found != TENSORS[OUT].array).any(axis=0))
    np.testing.assert_array_equal(found[:, changed], -TENSORS[OUT].array[:, changed])


@pytest.mark.parametrize("name", ["+inf", "-inf", "NaN"])
def test_exactly_one_value_is_not_finite(name):
    found = FAULT[name].planted(CAPTURE, QUERY).array
    assert (~np.isfinite(found)).sum() == 1


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("heads swapped", OUT),
        ("rotary halves interleaved", OUT),
        ("scaled by 1.03", IDS),
        ("NaN", IDS),
        ("layer exchanged", QUERY),
    ],
)
def test_a_fault_is_not_planted_where_it_does_not_exist(name, site):
    assert FAULT[name].planted(CAPTURE, site) is None


def test_a_fault_that_changes_nothing_is_not_planted():
    same = {OUT: tensor(np.ones((6, 4), np.float32), "t d")}
    capture = Capture(
        identity=CAPTURE.identity, inputs=CAPTURE.inputs, plan=Plan(), tensors=same, logits=()
    )
    assert FAULT["token replaced"].planted(capture, OUT) is None
    assert FAULT["tokens shifted by one"].planted(capture, OUT) is None


@pytest.mark.parametrize("limit", [1e-1, 1e-3, 1e-5])
def test_the_smallest_disturbance_caught_is_just_beyond_the_limit(limit):
    found = smallest_caught(CAPTURE, OUT, refuted_by({"rel_l2": {"max": limit}}))
    assert limit < found * 1.001
    assert found < limit * 2**0.25 * 1.01


def test_a_disturbance_of_one_row_hides_in_the_total_but_not_in_the_worst_row():
    total = smallest_caught(CAPTURE, OUT, refuted_by({"rel_l2": {"max": 1e-3}}), row=True)
    row = smallest_caught(CAPTURE, OUT, refuted_by({"worst_row": {"max": 1e-3}}), row=True)
    assert row < 1.3e-3
    assert total > 2e-3


def test_a_check_that_passes_everything_catches_nothing():
    assert smallest_caught(CAPTURE, OUT, lambda _site, _tensor: False) is None


def test_a_check_that_refutes_the_tensor_itself_has_no_smallest_disturbance():
    assert smallest_caught(CAPTURE, OUT, lambda _site, _tensor: True) == 0.0
