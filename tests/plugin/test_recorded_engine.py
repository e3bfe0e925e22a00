"""A recording supports PARTIAL at most, unless it is proven to be of what is here today."""

from __future__ import annotations

from dataclasses import replace

import pytest

# Loaded here because torch cannot be loaded twice, as it would be within these tests.
pytest.importorskip("transformers.models.qwen2.modeling_qwen2")

CONTRACT = """
    metadata: {{id: C-ONE}}
    targets: {{teacher: {{model: {model}, device: cpu, level: live}}}}
    captures:
      mine: {{engine: recorded, bundle: ../bundle}}
      oracle: {{engine: transformers, dtype: bfloat16}}
    inputs: {{one: {{tokens: [1, 2, 3]}}}}
    falsification_tests:
    - id: FALSIFY-A-1
      check: {{kind: parity, subject: mine, oracle: oracle, stages: [attn_out],
               expect: {{rel_l2: {{max: 0.05}}}}}}
    - id: FALSIFY-A-2
      check: {{kind: deterministic, subject: mine, stages: [attn_out]}}
"""


@pytest.mark.parametrize(
    ("weights", "status"), [("today's", "FUNCTIONAL"), ("sha256:" + "0" * 64, "PARTIAL")]
)
def test_a_recording_on_a_live_target_is_worth_what_its_manifest_proves(
    project, qwen2_tiny, weights, status
):
    from pytest_falsify.captures.bundle import write_bundle
    from pytest_falsify.captures.capture import TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.captures.record import record
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.registry import engine

    session = engine("transformers").load(
        Target(name="t", model=str(qwen2_tiny), line=1),
        CaptureSpec(name="c", engine="transformers", line=1),
        root=qwen2_tiny,
        device="cpu",
    )
    live = record(session, TokenInputs(name="one", tokens=(1, 2, 3)), Plan(stages=("attn_out",)))
    if weights != "today's":
        live = replace(live, identity=replace(live.identity, weights=weights))
    write_bundle(live, project.path / "bundle")
    project.file("contracts/one.yaml", CONTRACT.format(model=qwen2_tiny))

    ran = project.run("contracts")

    assert ran.outcomes == {"passed": 1, "errors": 1}
    assert ran.statuses() == {"FALSIFY-A-1": status, "FALSIFY-A-2": "UNTRIED"}
    assert "`mine` is a recording, which cannot be run anew" in ran.text
