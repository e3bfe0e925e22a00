"""The classical chain: exactly one adjacent pair, or it does not narrow anything."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from localize_support import plant, site

from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.localize.straddle import straddle

NAMES = ("attn_norm", "qkv_bias", "attention", "attn_out", "ffn_norm")


def chain(layer=0):
    return tuple(site(f"0/{layer}/{name}") for name in NAMES)


def compared(lab, where):
    subject = lab.capture(dtype="float32", plant=plant(where, "tokens shifted by one"))
    return compare_captures(subject, lab.capture(dtype="float32"))


def test_the_pair_is_where_the_cosine_falls(lab):
    found = straddle(compared(lab, "0/0/attention"), chain(), cosine=0.99)
    assert (site("0/0/qkv_bias"), site("0/0/attention")) == found.pairs[0]
    assert found.narrows


def test_nothing_is_narrowed_when_a_site_is_lacking(lab):
    sites = (*chain(), site("0/0/v_cache"))
    found = straddle(compared(lab, "0/0/attention"), sites, cosine=0.99)
    assert (False, (site("0/0/v_cache"),)) == (found.narrows, found.missing)


def test_nothing_is_narrowed_when_the_first_site_is_beyond(lab):
    found = straddle(compared(lab, "0/-/embedding"), chain(), cosine=0.99)
    assert found.is_first_beyond
    assert not found.narrows


def test_nothing_is_narrowed_when_all_is_within(lab):
    same = lab.capture(dtype="float32")
    found = straddle(compare_captures(same, same), chain(), cosine=0.99)
    assert (found.pairs, found.narrows) == ((), False)


@given(st.lists(st.booleans(), min_size=2, max_size=12))
def test_it_narrows_exactly_when_one_neighbour_pair_falls(is_within):
    class Total:
        def __init__(self, cosine):
            self.cosine = cosine

    class Compared:
        sites = tuple(
            type("One", (), {"site": index, "total": Total(1.0 if good else 0.0)})
            for index, good in enumerate(is_within)
        )

    found = straddle(Compared, range(len(is_within)), cosine=0.5)
    falls = sum(a and not b for a, b in itertools.pairwise(is_within))
    assert (falls == 1 and is_within[0]) == found.narrows
