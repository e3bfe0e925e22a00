"""Two URLs as subject and oracle: real servers, the ledger, and a fault that a middleman plants."""

from __future__ import annotations

import json
import re

import pytest

from pytest_falsify.engines import openai_client

CONTRACT = """
metadata: {id: C-ONE}
targets:
  served: {model: qwen2-tiny, device: cpu, level: live}
captures:
  aggregated: {engine: openai, url_env: AGGREGATED_URL}
  disaggregated: {engine: openai, url_env: DISAGGREGATED_URL}
  whole-lists: {engine: openai, url_env: DISAGGREGATED_URL, top: all}
  all-of-them: {engine: openai, url_env: AGGREGATED_URL, top: all}
inputs:
  prompt: {text: "The function returns a new list"}
falsification_tests:
- id: FALSIFY-SERVED-001
  rule: two workers say what one says
  check: {kind: tokens, subject: disaggregated, oracle: aggregated, new_tokens: 12}
- id: FALSIFY-SERVED-002
  rule: and nearly say the same
  check:
    kind: distribution
    subject: disaggregated
    oracle: aggregated
    expect: {top_k: {k: 10, max: 1e-3}}
- id: FALSIFY-SERVED-003
  rule: nor is it another layer that differs
  check: {kind: parity, subject: disaggregated, oracle: aggregated, stages: [attn_out], layers: [0],
          expect: {rel_l2: {max: 1e-3}}}
- id: FALSIFY-SERVED-004
  rule: step by step, over the whole vocabulary, they are near
  check: {kind: decode, subject: whole-lists, oracle: all-of-them, new_tokens: 3,
          expect: {kl: {max: 1e-3}}}
- id: FALSIFY-SERVED-005
  rule: nor is their cache seen
  check: {kind: kv, subject: disaggregated, oracle: aggregated, expect: {rel_l2: {max: 1e-3}}}
"""


@pytest.fixture
def pair(project, monkeypatch, aggregated_url, split_url):
    """A project whose contract compares two real servers."""
    project.file("contracts/one.yaml", CONTRACT)
    monkeypatch.setattr(openai_client, "FIRST_DELAY", 0.001)
    monkeypatch.setenv("AGGREGATED_URL", aggregated_url)
    monkeypatch.setenv("DISAGGREGATED_URL", split_url)
    return project


def evidence(ran, falsifier="FALSIFY-SERVED-001"):
    return json.loads(ran.ledgers["C-ONE"])["falsifiers"][falsifier]["evidence"]


def test_two_servers_that_agree_hold_and_what_they_do_not_show_is_told(pair, workers):
    ran = pair.run("contracts", *workers)

    assert ran.outcomes == {"passed": 3, "skipped": 2}
    assert ran.statuses() == {
        "FALSIFY-SERVED-001": "FUNCTIONAL",
        "FALSIFY-SERVED-002": "FUNCTIONAL",
        "FALSIFY-SERVED-003": "UNTRIED",
        "FALSIFY-SERVED-004": "FUNCTIONAL",
        "FALSIFY-SERVED-005": "UNTRIED",
    }
    assert "kind `parity` looks at what servers do not show" in ran.text
    assert "kind `kv` looks at what servers do not show" in ran.text
    assert "127.0.0.1" not in ran.text + ran.ledgers["C-ONE"]


def test_two_machines_that_saw_no_caveat_discharge(pair, monkeypatch):
    pair.run("contracts")
    monkeypatch.setenv("FALSIFY_MACHINE", "another")

    ran = pair.run("contracts")

    assert ran.statuses()["FALSIFY-SERVED-001"] == "DISCHARGED"
    assert "caveats" not in evidence(ran)[0]["observed"]


def test_an_answer_with_a_caveat_never_discharges_and_the_status_says_why(
    pair, monkeypatch, middlemen, split_url
):
    caveat = "a request was sent again after 503"
    with middlemen.Middleman(upstream=split_url) as between:
        monkeypatch.setenv("DISAGGREGATED_URL", between.url)
        for machine in ("one", "another", "a third"):
            monkeypatch.setenv("FALSIFY_MACHINE", machine)
            between.failures.append((503, {}))
            ran = pair.run("contracts", "-k", "FALSIFY-SERVED-001")

    block = json.loads(ran.ledgers["C-ONE"])["falsifiers"]["FALSIFY-SERVED-001"]
    assert block["status"] == "FUNCTIONAL"
    assert f"with caveats: {caveat}; DISCHARGED needs a run without caveats" in block["because"]
    assert block["evidence"][0]["observed"]["caveats"] == [caveat]


def late_token(middlemen):
    """A fault of decode: from the 9th token on, the second best is chosen instead of the best."""

    def edit(path, body):
        if path == middlemen.COMPLETIONS:
            for step in body["choices"][0]["logprobs"]["content"][8:]:
                first, second = step["top_logprobs"][:2]
                first["logprob"], second["logprob"] = second["logprob"], first["logprob"]
                step.update(id=second["id"], logprob=second["logprob"])
        return body

    return edit


def test_a_fault_behind_a_server_is_found_at_its_token(pair, monkeypatch, middlemen, split_url):
    with middlemen.Middleman(upstream=split_url, edit=late_token(middlemen)) as between:
        monkeypatch.setenv("DISAGGREGATED_URL", between.url)
        ran = pair.run("contracts")

    assert ran.statuses() == {
        "FALSIFY-SERVED-001": "FALSIFIED",
        "FALSIFY-SERVED-002": "FUNCTIONAL",
        "FALSIFY-SERVED-003": "UNTRIED",
        "FALSIFY-SERVED-004": "FUNCTIONAL",
        "FALSIFY-SERVED-005": "UNTRIED",
    }
    ran.result.stdout.fnmatch_lines(
        ["*one.yaml:12: refuted: token 9 of 12 on prompt is *, the oracle's is * there the oracle*"]
    )
    assert evidence(ran)[0]["observed"]["agreed"] == 8


def test_a_prompt_that_is_read_otherwise_is_found_in_the_distribution(
    pair, monkeypatch, middlemen, split_url
):
    class Forgetful(middlemen.Middleman):
        """A fault of the transfer: the first token of each prompt is lost on the way."""

        def answer(self, path, headers, body):
            if path == middlemen.COMPLETIONS:
                asked = json.loads(body)
                body = json.dumps(asked | {"prompt": asked["prompt"][1:]}).encode()
            return super().answer(path, headers, body)

    with Forgetful(upstream=split_url) as between:
        monkeypatch.setenv("DISAGGREGATED_URL", between.url)
        ran = pair.run("contracts")

    assert ran.statuses()["FALSIFY-SERVED-002"] == "FALSIFIED"
    assert "top_k max is no less than " in ran.text


def test_the_example_of_the_documentation_runs(pair, root):
    page = (root / "docs" / "served.md").read_text(encoding="utf-8")
    pair.file("contracts/one.yaml", re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])

    ran = pair.run("contracts")

    assert ran.outcomes == {"passed": 3}
    assert set(ran.statuses("C-TWO-WORKERS").values()) == {"FUNCTIONAL"}


def test_without_a_url_it_is_blocked_with_the_variable(pair, monkeypatch):
    monkeypatch.delenv("DISAGGREGATED_URL")

    ran = pair.run("contracts", "-rs")

    assert set(ran.statuses().values()) == {"BLOCKED"}
    assert "which is not set; to mend: export DISAGGREGATED_URL=..." in ran.text


def test_a_password_in_a_url_is_an_error_of_the_contract(pair):
    url = "http://me:secret@example.org"
    pair.file("contracts/one.yaml", CONTRACT.replace("url_env: AGGREGATED_URL", f'url: "{url}"'))

    ran = pair.run("contracts")

    assert ran.result.ret != 0
    assert "contracts/one.yaml:5: " in ran.text
