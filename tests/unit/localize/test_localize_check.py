"""The check kind: what it concludes, and what it refuses to conclude."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from localize_support import CONTRACT, INPUTS

from pytest_falsify.captures.bundle import write_bundle
from pytest_falsify.cli import main
from pytest_falsify.cli.localizing import _claim, _judged
from pytest_falsify.errors import CaptureError, ContractError
from pytest_falsify.ledger.evidence import Outcome

FEW = "stages: [attn_norm, qkv_bias, q_post_rope], layers: [1]"
LOCALIZE = "kind: localize, noise: {control: control}, "
EXPECTED = "expect: {guilty: 0/1/q_post_rope, fault: head order}"
HELD, REFUTED, INCONCLUSIVE = Outcome.HELD, Outcome.REFUTED, Outcome.INCONCLUSIVE


@pytest.fixture
def contract(lab, tmp_path):
    def write(check):
        path = tmp_path / "c.yaml"
        tokens = list(INPUTS.tokens)
        path.write_text(CONTRACT.format(model=lab.folder, tokens=tokens, check=check))
        return f"{path}::FALSIFY-SMALL-001"

    return write


@pytest.fixture
def judged(contract):
    def judge(check):
        claim = _claim(contract(check), None, graft=False)
        return _judged(claim, may_run_commands=False)

    return judge


def test_an_honest_subject_holds_and_every_planted_fault_would_have_been_caught(judged):
    found = judged(LOCALIZE + "subject: honest, stages: all, expect: {guilty: none}")
    assert found.outcome is HELD
    assert found.faults["planted"] > 50
    assert found.faults["caught"] == found.faults["planted"]
    assert found.observed["guilty"] == []


def test_the_expected_site_and_fault_hold(judged):
    found = judged(LOCALIZE + f"subject: faulty, {FEW}, graft: true, {EXPECTED}")
    assert (found.outcome, found.observed["guilty"]) == (HELD, ["0/1/q_post_rope"])
    assert found.observed["grafts"]["0/1/q_post_rope"] > 0.8
    assert found.observed["faults"] == {
        "0/1/q_post_rope": "head order: first two exchanged",
    }


@pytest.mark.parametrize(
    ("expect", "reason"),
    [
        ("{guilty: none}", "0/1/q_post_rope is guilty"),
        ("{guilty: 0/0/q_post_rope}", "0/0/q_post_rope is not guilty"),
        ("{guilty: 0/1/q_post_rope, fault: rope layout}", "was to be `rope layout`"),
        ("{guilty: [0/1/q_post_rope, 0/1/attn_norm]}", "0/1/attn_norm is not guilty"),
    ],
)
def test_other_guilty_than_expected_refute(judged, expect, reason):
    found = judged(LOCALIZE + f"subject: faulty, {FEW}, expect: {expect}")
    assert found.outcome is REFUTED
    assert any(reason in each for each in found.reasons)


def test_a_fault_that_is_expected_of_an_honest_subject_refutes(judged):
    found = judged(LOCALIZE + f"subject: honest, {FEW}, {EXPECTED}")
    assert (found.outcome, found.reasons) == (REFUTED, ("0/1/q_post_rope is not guilty",))


def test_the_budget_comes_to_the_same_conclusion(judged):
    stages = "stages: [embedding, post_ffn_residual, final_norm, lm_head]"
    found = judged(LOCALIZE + f"subject: faulty, {stages}, budget: true, {EXPECTED}")
    assert (found.outcome, found.observed["forwards"]) == (HELD, 2.0)


def test_nothing_is_concluded_when_another_path_is_served(judged):
    check = LOCALIZE + f"subject: faulty, served: control, {FEW}, {EXPECTED}"
    found = judged(check)
    assert found.outcome is INCONCLUSIVE
    assert "the captured path is not the served one" in found.reasons[0]
    assert not found.chains


def test_the_served_path_may_be_the_captured_one(judged):
    check = LOCALIZE + f"subject: faulty, served: faulty, {FEW}, {EXPECTED}"
    assert judged(check).outcome is HELD


def test_a_pair_of_neighbours_may_be_expected(judged):
    chain = "stages: [qkv_bias, q_post_rope, attention], layers: [1]"
    pair = "between: [qkv_bias, q_post_rope], cosine: 0.99"
    expect = f"expect: {{guilty: 0/1/q_post_rope, {pair}}}"
    assert judged(LOCALIZE + f"subject: faulty, {chain}, {expect}").outcome is HELD
    wrong = expect.replace("[qkv_bias, q_post_rope]", "[q_post_rope, attention]")
    assert judged(LOCALIZE + f"subject: faulty, {chain}, {wrong}").outcome is REFUTED


def test_a_pair_that_the_check_does_not_look_at_is_a_mistake(judged):
    expect = "expect: {guilty: none, between: [attn_norm, lm_head]}"
    with pytest.raises(ContractError, match="names no neighbours"):
        judged(LOCALIZE + f"subject: honest, stages: all, {expect}")


def test_a_fault_of_nobody_is_a_mistake(judged):
    with pytest.raises(ContractError, match="nobody is to be guilty"):
        judged(LOCALIZE + "subject: honest, expect: {guilty: none, fault: gqa}")


def test_without_a_control_the_oracles_own_code_is_the_floor(judged):
    check = f"kind: localize, subject: honest, {FEW}, expect: {{guilty: none}}"
    assert judged(check).outcome is HELD


@pytest.mark.parametrize(("weights", "outcome"), [("four-bit", HELD), ("oracle", REFUTED)])
def test_an_engine_is_held_against_the_weights_that_it_declares(judged, weights, outcome):
    check = f"kind: localize, weights: {weights}, subject: four-bit-sdpa, layers: [1], "
    stages = "stages: [ffn_norm, ffn_gate, ffn_up], expect: {guilty: none}"
    assert judged(check + stages).outcome is outcome


def test_a_disturbed_control_lends_nobody_its_weights(judged):
    disturbed = "kind: localize, noise: {control: rounded}, "
    check = disturbed + f"subject: honest, {FEW}, expect: {{guilty: none}}"
    assert judged(check).outcome is HELD


def run(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_the_command_names_the_guilty_and_draws(contract, tmp_path):
    name = contract(LOCALIZE + "subject: faulty, expect: {guilty: none}")
    result = run("localize", name, "--graft", "--plot", tmp_path / "grid.svg")
    assert result.exit_code == 1, result.output
    assert "0/1/q_post_rope is guilty" in result.output
    assert "> 0/1/q_post_rope" in result.output
    assert "of the difference of the logits away" in result.output
    cells = [each.get("class") for each in ET.parse(tmp_path / "grid.svg").iter()]
    assert cells.count("own guilty") == 1


def test_the_command_localises_between_any_subject_and_oracle(contract):
    name = contract("kind: parity, noise: {control: control}, subject: faulty")
    result = run("localize", name, "--format", "json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["inputs"]["seeded"]["guilty"]) == (1, ["0/1/q_post_rope"])


def test_the_command_wants_a_falsifier_that_is_there(contract):
    named = contract("kind: tokens, subject: honest").removesuffix("001")
    result = run("localize", f"{named}999")
    assert (result.exit_code, "names no falsifier" in result.stderr) == (2, True)


def test_the_command_wants_a_target_that_is_there(contract):
    name = contract(LOCALIZE + "subject: honest, expect: {guilty: none}")
    assert "is no target" in run("localize", name, "--target", "moon").stderr


@pytest.fixture(scope="module")
def bundles(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    fault = {"site": "0/1/q_post_rope", "fault": "heads exchanged"}
    for name, options in {
        "faulty": {"dtype": "bfloat16", "plant": fault},
        "control": {"dtype": "bfloat16"},
        "oracle": {"dtype": "float32"},
    }.items():
        write_bundle(lab.capture(attention="eager", **options), folder / name)
    return folder


def test_bisect_names_the_guilty_with_a_model(lab, bundles):
    result = run(
        "bisect", bundles / "faulty", bundles / "oracle", "--model", lab.folder, "--format", "json"
    )
    found = json.loads(result.stdout)
    assert (result.exit_code, found["chain"]["guilty"]) == (1, ["0/1/q_post_rope"])


def test_bisect_of_an_honest_pair_finds_nobody(lab, bundles):
    result = run("bisect", bundles / "control", bundles / "oracle", "--model", lab.folder)
    assert result.exit_code == 0, result.output
    assert "no operation is guilty" in result.output


def test_bisect_without_a_model_says_where_drift_is_seen(bundles):
    sides = (bundles / "faulty", bundles / "oracle", "--control", bundles / "control")
    result = run("bisect", *sides, "--stages", "qkv_bias,q_post_rope,attention", "--layer", "1")
    assert result.exit_code == 1
    assert "the first divergence is 0/1/q_post_rope" in result.output
    assert "crossed between 0/1/qkv_bias and 0/1/q_post_rope" in result.output
    assert "with --model the guilty operation is named" in result.output


def test_bisect_draws_nothing_without_a_model(bundles, tmp_path):
    result = run("bisect", bundles / "faulty", bundles / "oracle", "--plot", tmp_path / "x.svg")
    assert "nothing to draw" in result.stderr


def test_a_model_of_a_recording_is_not_at_hand(lab, bundles):
    from pytest_falsify.checks.localize import _evaluator

    claim = _claim_with(lab)
    with pytest.raises(CaptureError, match="has no model"):
        _evaluator(claim, {"oracle": object()}, lab.capture(dtype="float32"))


def _claim_with(lab):
    from pathlib import Path

    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.contracts.model import CaptureSpec, CheckSpec, Contract, Falsifier, Target

    captures = {"oracle": CaptureSpec(name="oracle", engine="recorded", line=1)}
    parameters = {"subject": "oracle", "oracle": "oracle", "expect": {"guilty": "none"}}
    check = CheckSpec(kind="localize", line=1, parameters=parameters)
    return Claim(
        contract=Contract(path=Path("c.yaml"), id="C", captures=captures),
        falsifier=Falsifier(id="FALSIFY-A-1", line=1, check=check),
        target=Target(name="here", model=str(lab.folder), line=1),
    )
