"""The existing format: every shared example loads, every case trips its code, ours validates."""

from __future__ import annotations

import json
import shutil

import pytest
from routing_support import (
    EXAMPLES,
    GATES,
    NEEDS_EXAMPLES,
    SCHEMAS,
    conformance,
    make_routing,
    patched,
    timed,
)

from pytest_falsify.routing.derive import derive
from pytest_falsify.routing.documents import DERIVED, RAW_TRACE, read_documents
from pytest_falsify.routing.full_run import write_full_run
from pytest_falsify.routing.issue import InvalidRun
from pytest_falsify.routing.naming import is_run_id
from pytest_falsify.routing.run import read_run
from pytest_falsify.routing.validate import issues_of

pytestmark = NEEDS_EXAMPLES
CASES = conformance()
RUNS = ("one_token_all_artifacts", "three_token_two_layer", "olmoe_bridge_two_token")


def codes(documents):
    return [each.code for each in issues_of(documents)]


@pytest.mark.parametrize("name", RUNS)
def test_every_example_loads_where_a_run_of_its_name_lies(name, tmp_path):
    found = read_documents(EXAMPLES / name)
    home = tmp_path / found.manifest["run_id"]
    shutil.copytree(EXAMPLES / name, home, ignore=shutil.ignore_patterns("expected_*"))

    run = read_run(home)

    assert len(found.raw_events) == len(run.routing.tokens)
    assert [len(each["layers"]) for each in found.raw_events] == (
        [len(run.routing.layers)] * len(run.routing.tokens)
    )


def test_an_example_in_a_folder_of_another_name_is_told_from_a_run():
    with pytest.raises(InvalidRun) as caught:
        read_run(EXAMPLES / "three_token_two_layer")
    assert caught.value.codes == ("folder_name_mismatch", "stray_file")
    assert "expected_derivation_relations.json" in str(caught.value)
    assert read_run(EXAMPLES / "three_token_two_layer", in_place=False).derived == {}


def test_there_are_cases():
    assert len(CASES["cases"]) == 35


@pytest.mark.parametrize(
    "case", CASES.get("cases", []), ids=[each["expect_code"] for each in CASES.get("cases", [])]
)
def test_every_conformance_case_trips_its_code(case):
    assert case["expect_code"] in codes(patched(case["patch"]))


@pytest.mark.parametrize("case", CASES.get("positive_cases", []))
def test_positive_cases_pass(case):
    assert codes(patched(case["patch"])) == []


@pytest.mark.parametrize("case", CASES.get("schema_level_rejects", []))
def test_what_the_schema_rejects_is_rejected_by_the_schema(case):
    assert "schema" in codes(patched(case["patch"]))


def test_run_ids_are_accepted_and_rejected_as_there():
    assert [each for each in CASES["run_id_rejects"] if is_run_id(each)] == []
    assert [each for each in CASES["run_id_accepts"] if not is_run_id(each)] == []


def test_the_proposals_own_event_is_refused_for_its_entropy():
    found = patched([])
    event = json.loads((EXAMPLES / "proposal_raw_event.json").read_text())
    found.raw_events[0] = event
    assert {"entropy_mismatch", "normalized_entropy_mismatch"} <= set(codes(found))


@pytest.mark.parametrize("gate", ["softmax", "renormalised", "of chosen"])
def test_what_we_write_fits_the_shared_schemas(gate, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    routing = timed(make_routing(4, gate=GATES[gate]), [0, 0, 1.5, 2.25], [1.5, 1.5, 2.25, 3])
    folder = write_full_run(routing, tmp_path, derived=derive(routing))

    for name, schema in {
        "manifest.json": "manifest",
        RAW_TRACE: "raw_trace_event",
        "layout.json": "layout",
        DERIVED: "derived_event",
        "motif_ledger.json": "motif_ledger",
        "contingency.json": "contingency",
    }.items():
        body = json.loads((SCHEMAS / f"{schema}.schema.json").read_text())
        checker = jsonschema.Draft202012Validator(
            body, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )
        text = (folder / name).read_text()
        documents = text.splitlines() if name.endswith("ndjson") else [text]
        for each in documents:
            assert list(checker.iter_errors(json.loads(each))) == []
    assert read_run(folder).routing.layers.keys() == routing.layers.keys()


def test_exact_motifs_have_the_relations_that_the_format_asks_for():
    folder = EXAMPLES / "three_token_two_layer"
    wanted = json.loads((folder / "expected_derivation_relations.json").read_text())
    found = derive(read_run(folder, in_place=False).routing, "exact")
    payloads = [each["derived_payload"] for each in found["derived_events"]]
    local = [{m["layer_index"]: m["motif_id"] for m in each["layer_motifs"]} for each in payloads]
    whole = [each["global_motif"]["motif_id"] for each in payloads]

    assert wanted["derived_event_count"] == len(payloads)
    assert wanted["derived_payload_keys"] == sorted(payloads[0])
    assert all(local[a][layer] == local[b][layer] for layer, a, b in wanted["local_motif_equal"])
    assert all(
        local[a][layer] != local[b][layer] for layer, a, b in wanted["local_motif_different"]
    )
    assert all(whole[a] == whole[b] for a, b in wanted["global_motif_equal"])
    assert all(whole[a] != whole[b] for a, b in wanted["global_motif_different"])
