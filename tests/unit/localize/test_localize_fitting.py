"""Numbers that stand in no list are measured: what they are, how far off, and when to be silent."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from localize_support import INPUTS, site

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.localize.chain import build
from pytest_falsify.localize.epsilon import measured_epsilon
from pytest_falsify.localize.fitting import Fitted, proportional
from pytest_falsify.localize.naming import name_fault
from pytest_falsify.localize.rotation import FARTHEST, Rotation

QUERY, KEY = site("0/1/q_post_rope"), site("0/0/k_post_rope")
TURNED = ("qkv_bias", "q_post_rope", "k_post_rope")
NORMED = ("embedding", "attn_norm", "post_attn_residual", "ffn_norm", "post_ffn_residual")
STATED = 10_000.0
DTYPES = st.sampled_from(["float32", "bfloat16"])
BASES = st.floats(math.log(20), math.log(1e8)).map(lambda each: float(f"{math.exp(each):.1e}"))


def turned_by(speeds, *, tokens, heads, dtype, seed, ahead=0, stated=STATED):
    """Return heads, the same turned by so much a token and rounded, and how right code turns."""
    half, places = len(speeds), np.arange(tokens)[:, None]
    drawn = np.random.default_rng(seed).standard_normal((tokens, heads, 2 * half))
    before = in_dtype(drawn, dtype)
    turn = np.exp(1j * (places + ahead) * speeds)[:, None]
    pairs = (before[..., :half] + 1j * before[..., half:]) * turn
    after = in_dtype(np.concatenate([pairs.real, pairs.imag], axis=-1), dtype)
    right = frequencies(stated, half)
    return before, after, np.exp(1j * places * right), right


def in_dtype(values, dtype):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    return values.astype(kind).astype(np.float64)


def frequencies(base, pairs):
    return base ** -(np.arange(pairs) / pairs)


SIZES = st.fixed_dictionaries(
    {
        "tokens": st.integers(8, 64),
        "heads": st.integers(1, 4),
        "dtype": DTYPES,
        "seed": st.integers(0, 999),
    }
)


@given(base=BASES, pairs=st.sampled_from([4, 8, 16, 32]), size=SIZES)
def test_another_base_is_measured_within_its_own_uncertainty(base, pairs, size):
    power = Rotation.of(*turned_by(frequencies(base, pairs), **size)).power()
    assert abs(math.log(base) / math.log(STATED) - power.value) < 2 * power.reach
    assert power.reach < 0.1


@given(factor=st.floats(1.1, 30), size=SIZES)
def test_linear_scaling_is_measured_within_its_own_uncertainty(factor, size):
    found = Rotation.of(*turned_by(frequencies(STATED, 8) / factor, **size)).factor()
    assert abs(factor - found.value) < 2 * found.reach
    assert found.reach < 0.1 * factor


@given(
    ahead=st.integers(-FARTHEST, FARTHEST),
    tokens=st.integers(1, 16),
    dtype=DTYPES,
    seed=st.integers(0, 999),
)
def test_an_offset_is_found_even_of_one_token(ahead, tokens, dtype, seed):
    size = {"tokens": tokens, "heads": 4, "dtype": dtype, "seed": seed}
    found = Rotation.of(*turned_by(frequencies(STATED, 16), ahead=ahead, **size))
    assert ahead == found.offset()


def test_pairs_that_rounding_keeps_from_turning_do_not_decide():
    size = {"tokens": 32, "heads": 2, "dtype": "bfloat16", "seed": 1}
    found = Rotation.of(*turned_by(frequencies(1e6, 8) / 17.3, stated=1e6, **size)).factor()
    assert found.value == pytest.approx(17.3, rel=0.01)


@pytest.mark.parametrize("tokens", [31, 700])
def test_errors_are_what_they_are_said_to_be_however_noisy_and_long(tokens):
    size = {"tokens": tokens, "heads": 2, "dtype": "float32", "seed": 1}
    before, after, *right = turned_by(frequencies(500.0, 256), **size)
    noisy = after + 0.3 * np.random.default_rng(2).standard_normal(after.shape)
    found = Rotation.of(before, noisy, *right)
    off = (found.speed - frequencies(500.0, 256)) / found.error
    assert np.sqrt((off * off).mean()) < 1.05


def test_pairs_that_are_nought_tell_nothing():
    before, after, *right = turned_by(
        frequencies(500.0, 4), tokens=16, heads=2, dtype="float32", seed=1
    )
    for heads in (before, after):
        heads[..., [2, 6]] = 0.0
    found = Rotation.of(before, after, *right)
    assert math.isinf(found.error[2])
    assert math.log(500) / math.log(STATED) == pytest.approx(found.power().value, abs=1e-6)


def test_of_few_tokens_no_speed_is_known():
    few = turned_by(frequencies(500.0, 4), tokens=3, heads=2, dtype="float32", seed=1)
    found = Rotation.of(*few)
    assert (found.power(), found.factor()) == (None, None)


@given(value=st.floats(1e-6, 1e9), error=st.floats(0, 0.1))
def test_the_plausible_number_has_the_fewest_digits_within_reach(value, error):
    fitted = Fitted(value=value, error=error * value)
    assert abs(fitted.plausible - value) <= max(fitted.reach, 1e-6 * value)
    coarser = (float(f"{value:.{digits}e}") for digits in range(7))
    first = next((each for each in coarser if abs(each - value) <= fitted.reach), value)
    assert first == fitted.plausible


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (500.02, 0.01, "500"),
        (12344.7, 0.1, "12345"),
        (9.4e6, 1e5, "9000000 (give or take 4e+05)"),
        (0.25, 0.0, "0.25"),
    ],
)
def test_a_number_is_told_with_its_uncertainty_unless_that_is_small(value, error, told):
    assert Fitted(value=value, error=error).told() == told


def test_a_factor_of_nothing_is_not_fitted():
    assert proportional(np.zeros(4), np.ones(4), np.ones(4)) is None


def running_with(lab, dtype, stages, change):
    """Return what a model shows that was changed before it ran."""
    session = lab.session(dtype=dtype, attention="eager")
    model = copy.deepcopy(session.model)
    with torch.no_grad():
        change(model)
    return record(replace(session, model=model), INPUTS, Plan(stages=stages, needs_answer=False))


def on_base(base):
    def change(model):
        half = model.model.rotary_emb.inv_freq.numel()
        model.model.rotary_emb.inv_freq.copy_(torch.from_numpy(frequencies(base, half)))

    return change


@pytest.mark.parametrize("base", [500.0, 12345.0, 30_000.0, 2_500_000.0])
@pytest.mark.parametrize("where", [QUERY, KEY])
def test_a_base_in_no_list_is_named_with_the_one_that_is_configured(lab, base, where):
    subject = running_with(lab, "float32", TURNED, on_base(base))
    named = name_fault(lab.evaluator(), subject, where)
    assert ("rope base", f"10000 -> {base:.7g}") == (named.fault, named.detail)


@given(base=BASES, dtype=DTYPES)
@settings(max_examples=12)
def test_no_other_base_is_named_than_the_one_that_was_used(lab, base, dtype):
    subject = running_with(lab, dtype, TURNED, on_base(base))
    evaluator = lab.evaluator(dtype)
    for link in build(evaluator, subject).guilty[:1]:
        named = name_fault(evaluator, subject, link.site)
        if named is None:
            continue
        found = float(named.detail.split()[2])
        assert named.fault == "rope base"
        assert found == pytest.approx(base, rel={"float32": 1e-5, "bfloat16": 0.1}[dtype])
    if dtype == "float32" and not math.isclose(base, STATED, rel_tol=1e-3):
        assert name_fault(evaluator, subject, QUERY) is not None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_positions_far_off_and_odd_scalings_are_named(lab, dtype):
    def slowed(model):
        model.model.rotary_emb.inv_freq.div_(3.0)

    def moved(model):
        model.model.rotary_emb.register_forward_pre_hook(
            lambda _module, given: (given[0], given[1] + 37)
        )

    evaluator = lab.evaluator(dtype)
    for change, told in ((slowed, "frequencies / 3"), (moved, "positions +37")):
        subject = running_with(lab, dtype, TURNED, change)
        assert told in name_fault(evaluator, subject, QUERY).detail


@given(seed=st.integers(0, 999), size=st.floats(0.05, 0.5), dtype=DTYPES)
@settings(max_examples=12)
def test_what_is_merely_noisy_is_given_no_name(lab, seed, size, dtype):
    subject = lab.capture(stages=TURNED, dtype=dtype, attention="eager")
    tensors = {**subject.tensors}
    right = tensors[QUERY].array
    drawn = np.random.default_rng(seed).standard_normal(right.shape)
    spoilt = (right.astype(np.float64) * (1 + size * drawn)).astype(right.dtype)
    tensors[QUERY] = replace(tensors[QUERY], array=spoilt)
    noisy = replace(subject, tensors=tensors)
    assert {QUERY} == {each.site for each in build(lab.evaluator(dtype), noisy).guilty}
    assert name_fault(lab.evaluator(dtype), noisy, QUERY) is None


def normed(powers, epsilon, seed, channels=64):
    """Return the mean squares of some rows, and what a norm makes of them with an epsilon."""
    rows = np.random.default_rng(seed).standard_normal((len(powers), channels))
    rows *= np.sqrt(powers / (rows * rows).mean(axis=-1))[:, None]
    return rows / np.sqrt(powers + epsilon)[:, None]


POWERS = st.lists(st.floats(1e-3, 10), min_size=8, max_size=40).filter(
    lambda each: max(each) > 2 * min(each)
)


@given(powers=POWERS, epsilon=st.floats(1e-4, 1.0), dtype=DTYPES, seed=st.integers(0, 999))
def test_an_epsilon_is_measured_within_its_own_uncertainty_or_not_at_all(
    powers, epsilon, dtype, seed
):
    powers = np.array(powers)
    observed = normed(powers, epsilon, seed)
    rounded = in_dtype(observed, dtype)
    found = measured_epsilon(powers, normed(powers, 1e-6, seed), rounded, 1e-6)
    assert dtype == "bfloat16" or found is not None
    assert found is None or abs(epsilon - found.value) < 2 * found.reach + 1e-6 * epsilon


@given(powers=POWERS, factor=st.floats(0.8, 0.999), dtype=DTYPES, seed=st.integers(0, 999))
def test_a_common_factor_is_not_taken_for_an_epsilon(powers, factor, dtype, seed):
    powers = np.array(powers)
    right = normed(powers, 1e-6, seed)
    assert measured_epsilon(powers, right, in_dtype(factor * right, dtype), 1e-6) is None


def test_of_few_rows_no_epsilon_is_known():
    powers = np.geomspace(0.1, 1, 7)
    rows = (normed(powers, each, 0) for each in (1e-6, 1e-2))
    assert measured_epsilon(powers, *rows, 1e-6) is None


@pytest.mark.parametrize(("epsilon", "dtype"), [(3e-5, "float32"), (0.3, "bfloat16")])
def test_an_epsilon_in_no_list_is_named(lab, epsilon, dtype):
    def change(model):
        model.model.layers[1].post_attention_layernorm.variance_epsilon = epsilon

    subject = running_with(lab, dtype, NORMED, change)
    (link,) = build(lab.evaluator(dtype), subject).guilty
    named = name_fault(lab.evaluator(dtype), subject, link.site)
    assert (named.fault, site("0/1/ffn_norm")) == ("norm epsilon", link.site)
    stated, _, found = named.detail.split()[:3]
    assert float(stated) == 1e-6
    assert float(found) == pytest.approx(epsilon, rel=0.05)


def test_a_factor_is_fitted_to_the_rows_that_the_subject_shows(lab):
    subject = lab.capture(dtype="float32", attention="eager")
    where, tensors = site("0/1/attn_out"), {**subject.tensors}
    shown = tensors[where]
    tensors[where] = replace(shown, array=1.37 * shown.array[4:], positions=shown.positions[4:])
    named = name_fault(lab.evaluator(), replace(subject, tensors=tensors), where)
    assert (named.fault, named.detail) == ("scale", "x 1.37")
