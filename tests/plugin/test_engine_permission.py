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
