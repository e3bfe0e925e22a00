"""A capture that runs a command does so with permission only, in contracts and in tests."""

from __future__ import annotations

import textwrap

CONTRACT = """
    metadata: {{id: C-ONE}}
    targets: {{tiny: {{model: {model}, device: cpu}}}}
    captures:
      mine: {{engine: command, run: "touch ran; exit 3 # {{model}} {{tokens}} {{out}}",
             version: "echo 1", stages: [lm_head]}}
    inputs: {{one: {{tokens: [1, 2]}}}}
    falsification_tests:
    - id: FALSIFY-A-1
      check: {{kind: deterministic, subject: mine, stages: [lm_head]}}
"""
TEST = """
    import pytest

    @pytest.mark.falsify_target(model={model!r})
    def test_mine(falsify_capture):
        run = "touch ran; exit 3 # {{model}} {{tokens}} {{out}}"
        falsify_capture(
            {{"engine": "command", "run": run, "version": "echo 1", "stages": ["lm_head"]}}, [1, 2]
        )
"""


def test_without_permission_a_capture_is_blocked_and_nothing_has_run(project, qwen2_tiny):
    project.file("contracts/one.yaml", CONTRACT.format(model=qwen2_tiny))
    project.file("test_mine.py", textwrap.dedent(TEST.format(model=str(qwen2_tiny))))

    asked = project.run("-rs", "-n", "0")
    assert not (project.path / "ran").exists()
    allowed = project.run("-n", "0", "--falsify-allow-commands")

    assert asked.outcomes == {"skipped": 2}
    assert "read its `run:`, then give --falsify-allow-commands" in asked.text
    assert allowed.outcomes == {"errors": 1, "failed": 1}
    assert (project.path / "ran").exists()


SERVED = """
    metadata: {{id: C-SERVED}}
    targets: {{tiny: {{model: {model}, device: cpu}}}}
    captures:
      oracle: {{engine: transformers}}
      served:
        engine: disaggregated
        sources: [transfer.sh]
        transfer: {{through: {{command: ["sh", "transfer.sh", "{{sent}}", "{{received}}"]}}}}
    inputs: {{one: {{tokens: [1, 2, 3]}}}}
    falsification_tests:
    - id: FALSIFY-A-1
      check: {{kind: kv, subject: served, oracle: oracle, decode_steps: 1,
              expect: {{worst_row: {{max: 1.0e-4}}}}}}
"""


def test_a_program_that_carries_a_cache_takes_permission_too(project, qwen2_tiny):
    project.file("contracts/one.yaml", SERVED.format(model=qwen2_tiny))
    project.file("contracts/transfer.sh", 'touch ran; cp "$1" "$2"')

    asked = project.run("-rs", "-n", "0")
    assert not (project.path / "contracts" / "ran").exists()
    allowed = project.run("-n", "0", "--falsify-allow-commands")

    assert asked.outcomes == {"skipped": 1}
    assert "read its `command:`, then give --falsify-allow-commands" in asked.text
    assert allowed.outcomes == {"passed": 1}
    assert (project.path / "contracts" / "ran").exists()
