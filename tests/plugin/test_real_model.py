"""The whole way on the trained model: capture, compare, refute, and the ledger."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")


def _copy(project, root, name):
    text = (root / name).read_text(encoding="utf-8")
    model = root / "fixtures" / "models" / "qwen2-tiny"
    project.file("contracts/one.yaml", text.replace("../fixtures/models/qwen2-tiny", str(model)))


def test_our_own_contract_holds_and_gives_the_same_ledger_with_workers(project, root):
    _copy(project, root, "contracts/qwen2-tiny-parity-v1.yaml")

    alone = project.run("contracts", "-m", "cpu", "--falsify-gate", "-n", "0")
    (project.path / "evidence/C-QWEN2-TINY-PARITY.json").unlink()
    shared = project.run("contracts", "-m", "cpu", "--falsify-gate", "-n", "2")

    assert alone.outcomes == shared.outcomes == {"passed": 9}
    assert alone.result.ret == shared.result.ret == 0
    assert alone.ledgers == shared.ledgers
    assert set(alone.statuses("C-QWEN2-TINY-PARITY").values()) == {"PARTIAL"}


def test_the_demonstration_is_refuted_at_rope_itself_and_its_fault_is_named(project, root):
    _copy(project, root, "examples/wrong-rope-base-v1.yaml")

    ran = project.run("contracts", "-n", "0")

    assert ran.outcomes == {"failed": 2}
    assert ran.statuses("C-WRONG-ROPE-BASE") == {
        "FALSIFY-PORT-001": "FALSIFIED",
        "FALSIFY-PORT-002": "FALSIFIED",
    }
    ran.result.stdout.fnmatch_lines(
        [
            "*refuted: 56 sites*the first is 0/0/q_post_rope*",
            "  > 0/0/q_post_rope *",
            "*refuted: 0/0/q_post_rope is guilty*`rope base: 10000 -> 1e+06`*, and 7 more up to *",
        ]
    )


PYTHON = """
    import numpy as np
    import pytest

    pytestmark = pytest.mark.falsify_target(model={model!r}, device="cpu")
    FLOAT32 = {{"engine": "transformers", "dtype": "float32"}}

    def test_half_precision_is_near(falsify_capture, falsify_compare):
        oracle = falsify_capture(FLOAT32, "The function returns", stages=["lm_head"])
        subject = falsify_capture(FLOAT32 | {{"dtype": "float16"}}, "The function returns",
                                  stages=["lm_head"])

        comparison = falsify_compare(subject, oracle)

        assert 0 < comparison.worst.total.rel_l2 < 1e-2

    @pytest.mark.falsify_target(model="./nowhere")
    def test_a_missing_model(falsify_capture):
        falsify_capture(FLOAT32, "The function returns")

    @pytest.mark.falsify_target(model={model!r}, device="cuda:99")
    def test_an_absent_device(falsify_capture):
        raise AssertionError("unreachable: the fixture skips")

    def test_overridden(falsify_device):
        assert falsify_device == "cpu"
"""


def test_the_fixtures_serve_ordinary_tests(project, qwen2_tiny):
    project.file("test_mine.py", PYTHON.format(model=str(qwen2_tiny)))

    result = project.pytester.runpytest_subprocess("-rs", "test_mine.py")

    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*there is no model at ./nowhere*", "SKIPPED *CUDA device 99*"])


def test_a_test_without_a_target_is_told_how_to_get_one(project):
    project.file("test_mine.py", "def test_it(falsify_capture): pass\n")

    result = project.pytester.runpytest_subprocess("test_mine.py")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*expected: @pytest.mark.falsify_target(*"])
