"""rate on real servers: as many prompts at once as the engine allows, and caveats that stay."""

from __future__ import annotations

import json

import pytest

from pytest_falsify._loading import vocabulary
from pytest_falsify.checks.claim import Claim
from pytest_falsify.checks.registry import check
from pytest_falsify.checks.survey import run_survey, survey_key
from pytest_falsify.contracts.load import load_contract
from pytest_falsify.engines.registry import engine
from pytest_falsify.ledger.evidence import Outcome

CONTRACT = """
targets: {{here: {{model: {model}}}}}
captures:
  theirs: {{engine: openai, url: "{theirs}", concurrency: 3, top: {top}}}
  mine: {{engine: openai, url: "{mine}", concurrency: 3, top: {top}}}
  known: {{engine: transformers}}
inputs:
  prompts: {{dataset: prompts.jsonl}}
falsification_tests:
- id: FALSIFY-A-1
  check:
    {{kind: rate, subject: mine, oracle: {oracle}, inputs: [prompts], outcome: {outcome},
      new_tokens: 3, expect: {{rate: {{max: 0.4}}}}}}
"""
RATE = check("rate")


@pytest.fixture
def surveyed(tmp_path, qwen2_tiny, aggregated_url):
    """Survey ten prompts: by the server at a URL, beside the aggregated one or transformers."""
    lines = [
        {"id": f"p{n}", "tokens": [(7 * n + 11 * m) % 900 + 30 for m in range(n + 3)]}
        for n in range(10)
    ]
    text = "".join(f"{json.dumps(each)}\n" for each in lines)
    (tmp_path / "prompts.jsonl").write_text(text)

    def survey(url, *, outcome="tokens", oracle="theirs", top=20):
        path = tmp_path / "c.yaml"
        path.write_text(
            CONTRACT.format(
                model=qwen2_tiny,
                theirs=aggregated_url,
                mine=url,
                oracle=oracle,
                outcome=outcome,
                top=top,
            )
        )
        contract = load_contract(path, vocabulary=vocabulary())
        target = contract.targets["here"]
        claim = Claim(contract=contract, falsifier=contract.falsifiers[0], target=target)
        sessions = {
            name: engine(spec.engine).load(target, spec, root=tmp_path, device="cpu")
            for name, spec in contract.captures.items()
            if name in {"mine", oracle}
        }
        assert survey_key(claim, RATE, sessions, "") is None  # a server is always asked anew
        return claim, run_survey(claim, RATE, sessions)

    return survey


@pytest.mark.parametrize("oracle", ["theirs", "known"])
def test_another_way_to_serve_a_model_answers_alike(surveyed, split_url, oracle):
    if oracle == "known":
        pytest.importorskip("transformers")
    claim, found = surveyed(split_url, oracle=oracle)
    assert [each.id for each in found.outcomes] == [f"p{n}" for n in range(10)]
    verdict = RATE.judge_survey(claim, found)
    assert verdict.outcome is Outcome.HELD, verdict.reasons
    assert verdict.faults["caught"] == verdict.faults["planted"] == 12


def test_the_next_token_is_the_best_that_servers_tell(surveyed, split_url):
    claim, found = surveyed(split_url, outcome="argmax")
    verdict = RATE.judge_survey(claim, found)
    assert verdict.outcome is Outcome.HELD, verdict.reasons
    assert all(
        len(mine) == len(theirs) == 1 for mine, theirs in (e.answers for e in found.outcomes)
    )


def test_a_divergence_that_servers_do_not_tell_is_not_concluded(surveyed, split_url):
    claim, found = surveyed(split_url, outcome="{kl: {max: 0.1}}")
    verdict = RATE.judge_survey(claim, found)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    reason = verdict.reasons[0]
    assert reason.startswith("none of 10 prompts could be judged; the first is p0: KL is between ")
    assert reason.endswith("and inf nats by what servers tell: ask for more (`top`)")


@pytest.mark.parametrize("oracle", ["theirs", "known"])
def test_a_divergence_is_known_where_servers_tell_of_all_candidates(surveyed, split_url, oracle):
    if oracle == "known":
        pytest.importorskip("transformers")
    claim, found = surveyed(split_url, outcome="{kl: {max: 0.1}}", oracle=oracle, top="all")
    verdict = RATE.judge_survey(claim, found)
    assert verdict.outcome is Outcome.HELD, verdict.reasons
    assert verdict.faults["caught"] == verdict.faults["planted"]


def test_requests_go_out_together_and_what_was_asked_again_is_not_forgotten(
    surveyed, middlemen, aggregated_url, monkeypatch
):
    monkeypatch.setattr("pytest_falsify.engines.openai_client.FIRST_DELAY", 0.001)
    with middlemen.Middleman(upstream=aggregated_url) as between:
        between.failures.append((503, {}))
        _, found = surveyed(between.url)
        assert 1 < between.most_at_once <= 3
    caveats = {caveat for run in found.captures.values() for caveat in run.caveats}
    assert len(caveats) == 1
    assert not any(each.lack for each in found.outcomes)
