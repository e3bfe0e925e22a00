"""An oracle of which only sketches are on file can still refute, and never proves equality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from checks_support import SITES, judge, make_capture

from pytest_falsify.captures.sketch import sketched
from pytest_falsify.errors import AlignmentError
from pytest_falsify.ledger.evidence import Outcome

EXPECT = {"rel_l2": {"max": 1e-3}, "worst_row": {"max": 1e-3}}


def capture(noise=0.0):
    rng = np.random.default_rng(3)
    made = {site: rng.normal(size=(4, 256)).astype(np.float32) for site in SITES}
    return make_capture(
        values={site: (each * (1 + noise)).astype(np.float32) for site, each in made.items()}
    )


@pytest.fixture
def golden():
    full = capture()
    tensors = {site: sketched(site, each) for site, each in full.tensors.items()}
    return replace(full, tensors=tensors, logits=())


def test_parity_with_a_sketch_holds_as_an_estimate_whose_planted_faults_are_caught(golden):
    verdict = judge("parity", capture(1e-5), golden, expect=EXPECT)

    assert verdict.outcome is Outcome.HELD
    assert "estimated from sketches" in verdict.reasons[0]
    assert verdict.observed["estimated"] is True
    assert verdict.faults["caught"] == verdict.faults["planted"] > 0


def test_parity_with_a_sketch_is_refuted_beyond_the_limit(golden):
    assert judge("parity", capture(0.03), golden, expect=EXPECT).outcome is Outcome.REFUTED


def test_equal_sketches_are_no_equal_bits(golden):
    assert judge("parity", capture(), golden, expect=EXPECT).observed["bit_equal"] is False
    with pytest.raises(AlignmentError, match="cannot be told from a sketch"):
        judge("identical", capture(), golden)


def test_a_sketch_does_not_say_whether_any_bit_differs(golden):
    for noise in (0.0, 1e-5):
        verdict = judge("differs", capture(noise), golden)

        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "any bit" in verdict.reasons[0]


def test_how_far_a_capture_differs_is_estimated_from_a_sketch(golden):
    assert judge("differs", capture(0.03), golden, by=1e-3).outcome is Outcome.HELD
    assert judge("differs", capture(), golden, by=1e-3).outcome is Outcome.REFUTED
