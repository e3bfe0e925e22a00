"""Each kind of check holds, is refuted, and is inconclusive where it must be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from checks_support import SITES, changed, judge, make_capture, make_claim

from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.registry import check, check_kinds
from pytest_falsify.errors import ContractError, FalsifyError
from pytest_falsify.ledger.evidence import Outcome

HELD, REFUTED, INCONCLUSIVE = Outcome.HELD, Outcome.REFUTED, Outcome.INCONCLUSIVE
LOOSE = {"rel_l2": {"max": 1e3}}


def test_identical_holds_on_equal_bits_and_counts_what_it_saw():
    verdict = judge("identical", make_capture(), make_capture())

    assert verdict.outcome is HELD
    assert verdict.observed["bit_equal"] is True
    assert verdict.coverage == {"inputs": 1, "layers": 1, "sites": 3, "tokens": 4}


def test_identical_is_refuted_by_one_bit_and_names_the_first_site(site):
    value = make_capture().tensors[site].array[2, 3]

    verdict = judge(
        "identical",
        make_capture(values=changed(site, (2, 3), np.nextafter(value, np.float32(9)))),
        make_capture(),
    )

    assert verdict.outcome is REFUTED
    assert verdict.reasons[0].startswith(f"{site} is the first of 1 site ")


def test_identical_tells_minus_nought_from_nought(site):
    verdict = judge(
        "identical",
        make_capture(values=changed(site, (0, 0), -0.0)),
        make_capture(values=changed(site, (0, 0), 0.0)),
    )

    assert verdict.outcome is REFUTED


def test_identical_tells_a_wider_dtype_of_equal_values(site):
    exact = np.round(make_capture().tensors[site].array)

    verdict = judge(
        "identical",
        make_capture(values={site: exact.astype(np.float16)}),
        make_capture(values={site: exact}),
    )

    assert verdict.outcome is REFUTED
    assert verdict.judged[0].violations[0].reason == "float16 instead of float32"


@pytest.mark.parametrize("kind", ["identical", "parity"])
@pytest.mark.parametrize("stray", [np.nan, np.inf, -np.inf])
def test_a_stray_value_is_never_a_pass(kind, stray, site):
    more = {"expect": LOOSE} if kind == "parity" else {}
    spoilt = make_capture(values=changed(site, (1, 1), stray))

    assert judge(kind, spoilt, make_capture(), **more).outcome is REFUTED
    assert judge(kind, make_capture(), spoilt, **more).outcome is REFUTED


def test_infinities_of_opposite_signs_are_never_a_pass(site):
    verdict = judge(
        "parity",
        make_capture(values=changed(site, (1, 1), np.inf)),
        make_capture(values=changed(site, (1, 1), -np.inf)),
        expect=LOOSE,
    )

    assert verdict.outcome is REFUTED


@pytest.mark.parametrize("kind", [each for each in check_kinds() if each != "command"])
def test_no_input_at_all_is_inconclusive(kind):
    expect = {"kl": {"max": 1}} if kind == "distribution" else LOOSE
    claim = make_claim(kind, subject="s", oracle="o", expect=expect)

    assert check(kind).judge(claim, {}, None).outcome is INCONCLUSIVE


@pytest.mark.parametrize("kind", ["identical", "parity"])
def test_nothing_compared_is_inconclusive(kind):
    more = {"expect": LOOSE} if kind == "parity" else {}
    empty = make_capture(sites=())

    assert judge(kind, empty, empty, **more).outcome is INCONCLUSIVE


@pytest.mark.parametrize("kind", ["identical", "parity"])
def test_a_site_that_one_side_lacks_is_inconclusive(kind):
    more = {"expect": LOOSE} if kind == "parity" else {}

    verdict = judge(kind, make_capture(sites=SITES[:2]), make_capture(), **more)

    assert verdict.outcome is INCONCLUSIVE
    assert str(SITES[2]) in verdict.reasons[0]


@pytest.mark.parametrize("kind", ["identical", "parity"])
def test_a_missing_site_does_not_hide_a_refutation(kind, site):
    more = {"expect": {"rel_l2": {"max": 1e-6}}} if kind == "parity" else {}
    bad = make_capture(sites=SITES[:2], values=changed(site, (0, 0), 9.0))

    verdict = judge(kind, bad, make_capture(), **more)

    assert verdict.outcome is REFUTED
    assert str(site) in verdict.reasons[0]


def test_a_planned_site_that_both_sides_lack_is_inconclusive():
    lacking = make_capture(sites=SITES[:2], missing=SITES[2:])

    assert judge("parity", lacking, lacking, expect=LOOSE).outcome is INCONCLUSIVE


def test_parity_holds_within_its_limits_and_says_that_they_are_uncalibrated():
    verdict = judge("parity", make_capture(), make_capture(), expect={"rel_l2": {"max": 0}})

    assert verdict.outcome is HELD
    assert verdict.observed["calibration"] == "uncalibrated"


def test_parity_is_refuted_by_one_bad_row_that_the_total_hides(site):
    rows = np.tile(make_capture().tensors[site].array, (512, 1))
    spoilt = rows.copy()
    spoilt[7] = -spoilt[7]
    good, bad = (
        make_capture(values=dict.fromkeys(SITES, rows) | {site: values})
        for values in (rows, spoilt)
    )

    total_only = judge("parity", bad, good, expect={"rel_l2": {"max": 0.1}})
    with_rows = judge(
        "parity", bad, good, expect={"rel_l2": {"max": 0.1}, "worst_row": {"max": 0.5}}
    )

    assert total_only.outcome is HELD
    assert with_rows.outcome is REFUTED
    assert "t=7" in with_rows.reasons[0]


def test_parity_says_what_would_have_passed(site):
    bad = make_capture(values=changed(site, (0, 0), 3.0))
    refuted = judge("parity", bad, make_capture(), expect={"rel_l2": {"max": 1e-6}})
    advised = refuted.judged[0].comparison.at(site).total.rel_l2

    again = judge("parity", bad, make_capture(), expect={"rel_l2": {"max": advised * 1.01}})

    assert refuted.outcome is REFUTED
    assert "rel_l2: {max: " in refuted.judged[0].advice
    assert again.outcome is HELD


def test_parity_counts_what_goes_beyond_a_stated_tolerance():
    good = make_capture()
    bad = make_capture(values=changed(SITES[1], (2, 3), 9.0))
    limit = {"atol": 1e-5, "rtol": 1e-3, "max": 0}
    assert judge("parity", good, good, expect={"exceeds": limit}).outcome is HELD
    assert judge("parity", bad, good, expect={"exceeds": limit}).outcome is REFUTED
    one = judge("parity", bad, good, expect={"exceeds": limit | {"max": 1}})
    assert one.judged[0].violations == ()


def test_deterministic_compares_every_run_with_the_first(site):
    odd = make_capture(values=changed(site, (0, 0), 1.5))

    assert judge("deterministic", [make_capture()] * 3).outcome is HELD
    assert judge("deterministic", [make_capture()] * 3).observed["repeats"] == 3
    assert judge("deterministic", [make_capture(), make_capture(), odd]).outcome is REFUTED


def test_deterministic_looks_at_the_logits_too():
    other = make_capture(logits=make_capture().logits[0] + 1)

    assert judge("deterministic", [make_capture(), other]).outcome is REFUTED


def test_deterministic_garbage_is_no_confirmation():
    nan = make_capture(logits=np.full((4, 16), np.nan, np.float32))

    assert judge("deterministic", [nan, nan]).outcome is INCONCLUSIVE


def test_deterministic_keeps_the_digest_of_what_was_repeated(site):
    def digests(capture):
        return judge("deterministic", [capture] * 3).observed["digests"]

    found = digests(make_capture())
    assert found.keys() == {"prompt"}
    assert found == digests(make_capture())
    others = (
        make_capture(values=changed(site, (0, 0), 1.5)),
        make_capture(logits=make_capture().logits[0] + 1),
        make_capture(logits=make_capture().logits[0].reshape(8, 8)),
        make_capture(sites=SITES[:2]),
    )
    assert all(digests(each) != found for each in others)


def test_deterministic_asks_for_fresh_runs():
    requests = check("deterministic").requests(make_claim("deterministic", subject="s", runs=4))

    assert [each.run for each in requests] == [0, 1, 2, 3]
    assert all(each.is_fresh for each in requests)


def test_unobserved_asks_for_one_captured_run_and_two_bare_ones():
    requests = check("unobserved").requests(make_claim("unobserved", subject="s", decode_steps=2))

    assert [each.plan.stages for each in requests] == [None, (), ()]
    assert {each.plan.decode_steps for each in requests} == {2}
    assert all(each.is_fresh for each in requests)


def test_unobserved_is_refuted_when_looking_changes_a_logit():
    bare = make_capture(sites=())
    moved = np.array(bare.logits[0])
    moved[3, 5] += 1e-6

    assert judge("unobserved", [make_capture(), bare, bare]).outcome is HELD
    assert judge("unobserved", [make_capture(logits=moved), bare, bare]).outcome is REFUTED


def test_unobserved_is_inconclusive_when_bare_runs_differ_or_nothing_was_captured():
    bare = make_capture(sites=())
    other = make_capture(sites=(), logits=bare.logits[0] + 1)

    assert judge("unobserved", [make_capture(), bare, other]).outcome is INCONCLUSIVE
    assert judge("unobserved", [bare, bare, bare]).outcome is INCONCLUSIVE


def test_tokens_are_compared_id_by_id_with_the_margin_at_the_difference():
    logits = np.zeros((1, 16), np.float32)
    logits[0, :2] = (3.0, 2.5)
    oracle = make_capture(continuation=(4, 5, 6), logits=logits)

    held = judge("tokens", oracle, oracle, new_tokens=3)
    refuted = judge(
        "tokens", make_capture(continuation=(4, 9, 6), logits=logits), oracle, new_tokens=3
    )

    assert held.outcome is HELD
    assert held.observed == {"agreed": 3, "smallest_margin": 0.5}
    assert refuted.outcome is REFUTED
    assert refuted.observed == {"agreed": 1, "margin": 0.5}
    assert "token 2 of 3 on prompt is 9, the oracle's is 5" in refuted.reasons[0]


def test_tokens_that_were_not_decoded_are_no_agreement():
    short = make_capture(continuation=(4,))

    assert judge("tokens", short, short, new_tokens=3).outcome is INCONCLUSIVE


def test_tokens_of_nan_logits_are_no_agreement():
    nan = make_capture(continuation=(0, 0), logits=np.full((1, 16), np.nan, np.float32))
    fine = make_capture(continuation=(0, 0))

    assert judge("tokens", nan, nan, new_tokens=2).outcome is INCONCLUSIVE
    assert judge("tokens", nan, fine, new_tokens=2).outcome is REFUTED


@pytest.mark.parametrize(
    ("layers", "expected"), [("all", None), ("0..3", (0, 1, 2)), ([2, 0, 2], (0, 2))]
)
def test_layers_are_read_as_all_a_range_without_its_end_or_a_list(layers, expected):
    assert make_claim("identical", layers=layers).plan().layers == expected


@pytest.mark.parametrize("layers", ["3..3", "2..1", "x", "1", "..2"])
def test_layers_that_name_nothing_are_refused(layers):
    with pytest.raises(ContractError, match="names no layers"):
        make_claim("identical", layers=layers).plan()


def test_stages_are_canonical_and_in_execution_order():
    claim = make_claim("identical", stages=["lm_head", "layer_output", "embedding"])

    assert claim.plan() == Plan(stages=("embedding", "post_ffn_residual", "lm_head"))


def test_every_kind_can_be_asked_for_and_an_unknown_one_names_them():
    for kind in check_kinds():
        assert check(kind).kind == kind
        assert set(check(kind).required) <= set(check(kind).parameters)
    with pytest.raises(FalsifyError, match="unknown check kind") as caught:
        check("paritee")
    assert "parity" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("argmax", {}),
        ("topk", {}),
        ("distribution", {"expect": {"kl": {"max": 1}}}),
        ("tokens", {"new_tokens": 2}),
    ],
)
@pytest.mark.parametrize("silent", ["subject", "oracle", "both"])
@pytest.mark.parametrize("none", [(), (np.zeros((0, 16), np.float32),)])
def test_a_run_without_logits_is_no_answer(kind, more, silent, none):
    answered = make_capture(continuation=(4, 5))
    mute = replace(answered, logits=none)

    verdict = judge(
        kind,
        answered if silent == "oracle" else mute,
        answered if silent == "subject" else mute,
        **more,
    )

    assert verdict.outcome is INCONCLUSIVE
    role = "oracle" if silent == "oracle" else "subject"
    assert verdict.reasons == (f"the {role} gave no logits on prompt",)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("deterministic", {}),
        ("unobserved", {}),
        ("invariance", {"relation": "chunked", "expect": LOOSE}),
    ],
)
def test_runs_without_logits_do_not_confirm_each_other(kind, more):
    mute = replace(make_capture(), logits=())

    assert judge(kind, [mute, replace(mute, tensors={}), mute], **more).outcome is INCONCLUSIVE


def test_logits_of_fewer_steps_than_were_decoded_are_told():
    bare = make_capture(continuation=(4, 5))

    verdict = judge("unobserved", [bare, bare, bare], decode_steps=2)

    assert verdict.reasons == ("the subject gave logits of 2 of 3 steps on prompt",)
