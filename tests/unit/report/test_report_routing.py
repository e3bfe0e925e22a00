"""Pictures and tables of routing: every token, layer and expert is there, and what differs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "routing"))

from routing_support import disturbed, make_routing

from pytest_falsify.errors import CaptureError
from pytest_falsify.report.routing import difference_lines
from pytest_falsify.report.routing_picture import (
    MOST_TOKENS,
    colour,
    routing_picture,
    write_routing_picture,
)
from pytest_falsify.routing.coherence import first_experts
from pytest_falsify.routing.difference import compare_routings

NAME = "{http://www.w3.org/2000/svg}"


def rectangles(svg):
    return ET.fromstring(svg).findall(f"{NAME}rect")


def test_every_token_and_layer_has_its_first_experts_colour():
    routing = make_routing(7, layers=2)
    fills = [each.get("fill") for each in rectangles(routing_picture(routing))]
    expected = [colour(int(each), 16) for layer in first_experts(routing) for each in layer]
    assert expected == [each for each in fills if each][: len(expected)]


def test_experts_have_colours_of_their_own():
    assert len({colour(each, 16) for each in range(16)}) == 16
    assert len({colour(each, 128) for each in range(128)}) == 128


def test_pointing_at_a_cell_tells_token_layer_and_experts():
    routing = make_routing(3, layers=1)
    svg = routing_picture(routing)
    ids = routing.layers[0].indices[2].tolist()
    assert "token 2 ' t2', layer 0: experts " + str(ids[0]) in svg


def test_the_load_is_that_of_the_layer():
    routing = make_routing(50, layers=1)
    load = routing.layers[0].load()
    svg = routing_picture(routing)
    for expert in range(16):
        share = load[expert] / load.sum()
        assert f"expert {expert}: {load[expert]} places, {share:.1%}" in svg


def test_what_changed_is_marked_where_it_changed():
    oracle = make_routing(9, layers=2)
    layer = oracle.layers[1]
    ids = np.array(layer.indices)
    ids[4] = np.argsort(layer.logits[4])[:4]
    subject = replace(oracle, layers={0: oracle.layers[0], 1: replace(layer, indices=ids)})
    found = compare_routings(subject, oracle, disturbed(oracle, 1e-4))
    marked = [each.get("class") for each in rectangles(routing_picture(subject, found))]
    cells = [each for each in marked if each in {"same", "flip"}]
    assert cells.count("flip") == 1 + 1  # the cell, and the legend
    assert cells.count("same") == 2 * 9 - 1
    assert "1 flip" in difference_lines(found)[0]


def test_a_long_run_is_cut_and_says_so():
    svg = routing_picture(make_routing(MOST_TOKENS + 20, layers=1))
    assert f"the first {MOST_TOKENS} of {MOST_TOKENS + 20} tokens" in svg


@pytest.mark.parametrize("text", ["<&>", '"', "\u2028", "é"])
def test_any_text_of_a_token_leaves_the_picture_whole(text):
    routing = make_routing(2, layers=1)
    named = replace(routing, tokens=replace(routing.tokens, texts=(text, text)))
    assert rectangles(routing_picture(named))


def test_only_svg_is_written(tmp_path):
    with pytest.raises(CaptureError, match=r"cannot be written as \.png"):
        write_routing_picture(make_routing(), tmp_path / "a.png")
    write_routing_picture(make_routing(), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
