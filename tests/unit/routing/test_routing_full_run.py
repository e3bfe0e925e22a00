"""The profile full_run v0.1.0: what we write is read again, and what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from routing_support import GATES, make_layer, make_routing, timed

from pytest_falsify.errors import CaptureError
from pytest_falsify.routing.documents import RAW_TRACE
from pytest_falsify.routing.full_run import write_full_run
from pytest_falsify.routing.gate import softmax
from pytest_falsify.routing.issue import InvalidRun
from pytest_falsify.routing.naming import is_date_time
from pytest_falsify.routing.run import read_run


@pytest.fixture
def routing():
    return timed(make_routing(3, layers=2), [0, 1, 2], [1, 2, 3])


@pytest.fixture
def folder(routing, tmp_path):
    return write_full_run(routing, tmp_path)


def events_of(folder):
    return [json.loads(each) for each in (folder / RAW_TRACE).read_text().splitlines()]


def refused(folder, change):
    """Return the codes and the message of a run whose events were changed."""
    events = events_of(folder)
    changed = change(events)
    lines = [json.dumps(each) for each in (events if changed is None else changed)]
    (folder / RAW_TRACE).write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(InvalidRun) as caught:
        read_run(folder)
    return caught.value.codes, str(caught.value)


def test_probabilities_ids_and_times_come_back(routing, folder):
    found = read_run(folder).routing
    for index, layer in routing.layers.items():
        again = found.layers[index]
        assert np.allclose(softmax(layer.logits), softmax(again.logits), atol=1e-8, rtol=0)
        assert np.array_equal(layer.indices, again.indices)
    assert np.array_equal(routing.tokens.starts, found.tokens.starts)
    assert routing.tokens.texts == found.tokens.texts


def test_a_missing_layer_is_named_with_its_line(folder):
    def change(events):
        events[1]["layers"].pop()

    codes, message = refused(folder, change)
    assert codes == ("raw_layer_set_inconsistent",)
    assert f"{RAW_TRACE}:2: " in message


def test_an_empty_trace_is_refused(folder):
    codes, _ = refused(folder, lambda _events: [])
    assert "raw_trace_empty" in codes


def test_time_that_runs_backwards_is_refused(folder):
    def change(events):
        events[2]["timing_ms"] = {"decode_start": 0.5, "decode_end": 3, "decode_duration": 2.5}

    assert refused(folder, change)[0] == ("decode_time_not_monotone",)


def test_a_context_that_does_not_grow_is_refused(folder):
    def change(events):
        events[2]["context_length"] = events[1]["context_length"]

    assert refused(folder, change)[0] == ("context_length_not_monotone",)


def test_a_changing_number_of_active_experts_is_refused(folder):
    def change(events):
        layer = events[1]["layers"][0]
        layer["topk_indices"].pop()
        layer["topk_probs"].pop()
        layer["num_active_experts"] -= 1

    assert refused(folder, change)[0] == ("raw_layer_active_count_inconsistent",)


def test_a_layer_that_only_the_layout_has_is_refused(folder):
    layout = json.loads((folder / "layout.json").read_text())
    layout["layers"].append({**layout["layers"][0], "layer_index": 9})
    (folder / "layout.json").write_text(json.dumps(layout))
    with pytest.raises(InvalidRun) as caught:
        read_run(folder)
    assert caught.value.codes == ("layout_layer_not_traced",)


def test_the_margin_of_one_active_expert_is_its_probability(tmp_path):
    folder = write_full_run(make_routing(2, active=1), tmp_path)

    def change(events):
        events[0]["layers"][0]["top1_top2_margin"] = 0.0

    assert refused(folder, change)[0] == ("top1_top2_margin_mismatch",)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_has_not_are_refused_with_their_line(folder, token):
    text = (folder / RAW_TRACE).read_text().splitlines()
    text[1] = text[1].replace('"decode_start": 1.0', f'"decode_start": {token}')
    (folder / RAW_TRACE).write_text("\n".join(text))
    with pytest.raises(CaptureError, match=rf"{RAW_TRACE}:2: {token} is no number"):
        read_run(folder)


def test_a_stray_file_and_another_name_are_refused(folder, tmp_path):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InvalidRun) as caught:
        read_run(folder.rename(tmp_path / "other"))
    assert caught.value.codes == ("folder_name_mismatch", "stray_file")


@pytest.mark.parametrize("name", ["sigmoid", "grouped"])
def test_a_gate_that_the_profile_cannot_say_is_refused_and_nothing_is_left(name, tmp_path):
    with pytest.raises(CaptureError, match="write it as routing/v1"):
        write_full_run(make_routing(2, gate=GATES[name]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dispatch_that_is_not_the_softmaxs_is_refused(tmp_path):
    routing = make_routing(2)
    layer = routing.layers[1]
    worst = np.argsort(layer.logits, axis=1)[:, : layer.active]
    wrong = replace(routing, layers={**routing.layers, 1: replace(layer, indices=worst)})
    with pytest.raises(CaptureError, match="layer 1: token 0 was not sent to the most probable"):
        write_full_run(wrong, tmp_path)


def test_dropped_places_are_refused(tmp_path):
    routing = make_routing(2, layers=1)
    layer = make_layer(2)
    dropped = np.where(np.arange(4) == 3, layer.experts, layer.indices)
    wrong = replace(routing, layers={0: replace(layer, indices=dropped)})
    with pytest.raises(CaptureError, match="2 places were dropped"):
        write_full_run(wrong, tmp_path)


def test_a_run_is_never_written_over(routing, folder, tmp_path):
    before = (folder / RAW_TRACE).read_bytes()
    with pytest.raises(CaptureError, match="already something here"):
        write_full_run(routing, tmp_path)
    assert before == (folder / RAW_TRACE).read_bytes()


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("2026-03-18T12:00:00Z", True),
        ("2026-03-18t12:00:00.25+05:30", True),
        ("2024-02-29T00:00:00Z", True),
        ("2023-02-29T00:00:00Z", False),
        ("2016-12-31T23:59:60Z", True),
        ("2017-01-01T00:59:60+01:00", True),
        ("2015-12-31T23:59:60Z", False),
        ("2026-03-18T24:00:00Z", False),
        ("2026-03-18T12:00:00+24:00", False),
        ("2026-03-18T12:00:00", False),
        ("0001-01-01T00:00:00+23:59", False),
        (7, False),
    ],
)
def test_times_are_those_of_the_calendar(text, is_one):
    assert is_one == is_date_time(text)
