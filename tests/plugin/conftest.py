"""A project to run the plugin on."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass, field
from typing import Any

import pytest

CONTRACT = """
metadata: {{id: {id}}}
targets:
  here: {{model: ./model, device: cpu, level: {level}}}
captures:
  oracle: {{engine: transformers, dtype: float32}}
  subject: {{engine: transformers, dtype: float32, attention: sdpa}}
inputs:
  prompt: {{tokens: [1, 2, 3, 4, 5]}}
falsification_tests:
{entries}
"""
ENTRY = """
- id: {id}
  rule: the subject agrees with the oracle
  require: PARTIAL
  check: {check}
"""
PARITY = "{kind: parity, subject: subject, oracle: oracle, expect: {rel_l2: {max: 1e-3}}}"

# Captures without a model: what the plugin does with them is on trial, not what makes them.
# `error` is the relative error of the subject by falsifier, and `crash` kills the process.
CAPTURES = """
import os
import numpy as np
import pytest
from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.stages.vocabulary import Site

ERRORS = {errors!r}

@pytest.fixture
def falsify_capture(request):
    error = ERRORS.get(request.node.claim.falsifier.id, 0.0)

    def make(capture, inputs, **asked):
        if error == "crash":
            os._exit(7)
        if error == "blocked":
            pytest.skip("there is no such thing here; to mend: bring it")
        values = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
        if capture == "subject" and error == "nan":
            values[2, 1] = np.nan
        elif capture == "subject" and error != "empty":
            values = values * np.float32(1 + error)
        plan = Plan(stages=("embedding",))
        tensor = CapturedTensor(array=values, dims="t d", positions=tuple(range(5)))
        return Capture(
            identity=Identity(
                engine="mine", versions={{"mine": {version!r}}}, weights="w",
                settings={{"capture": capture}}, device="cpu",
            ),
            inputs=TokenInputs(name=inputs, tokens=(1, 2, 3, 4, 5)),
            plan=plan,
            tensors={{}} if error == "empty" else {{Site(0, None, "embedding"): tensor}},
            logits=(values,),
        )

    return make
"""


@dataclass
class Ran:
    """What a run of pytest left behind."""

    result: pytest.RunResult
    ledgers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All that was printed."""
        return f"{self.result.stdout}\n{self.result.stderr}"

    @property
    def outcomes(self) -> dict[str, int]:
        """How many passed, failed, ..."""
        aside = {"warnings", "deselected"}
        return {key: n for key, n in self.result.parseoutcomes().items() if key not in aside}

    def statuses(self, contract: str = "C-ONE") -> dict[str, str]:
        """Status by falsifier, as it is on file, or as it is told where nothing was observed."""
        return self.on_file(contract) if contract in self.ledgers else self.told(contract)

    def on_file(self, contract: str = "C-ONE") -> dict[str, str]:
        """Status by falsifier as the ledger has it."""
        falsifiers = json.loads(self.ledgers[contract])["falsifiers"]
        return {id_: block["status"] for id_, block in falsifiers.items()}

    def told(self, contract: str = "C-ONE") -> dict[str, str]:
        """Status by falsifier as the summary has it."""
        told = re.search(rf"^{contract}  ledger: .*\n((?:  .*\n)+)", self.text, re.MULTILINE)
        assert told, f"the summary says nothing of {contract}:\n{self.text}"
        return dict(re.findall(r"^  (FALSIFY-\S+) +([A-Z]+) ", told[1], re.MULTILINE))


class Project:
    """A scratch project.

    A run with workers is a process of its own; others share this one, where what they import is
    loaded already: NumPy and torch cannot be loaded twice.
    """

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self.path = pytester.path
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("FALSIFY_MACHINE", "laptop")
        pytester.makeini(
            "[pytest]\naddopts = -p no:randomly -p no:cacheprovider -p no:hypothesispytest"
            " -p no:anyio\n"
            "filterwarnings = ignore::pytest_falsify.FalsifyWarning"
        )

    def contract(
        self,
        *ids: str,
        contract_id: str = "C-ONE",
        check: str = PARITY,
        level: str = "algorithm",
        name: str = "one",
    ) -> None:
        """Write a contract with one falsifier for each id."""
        entries = "".join(ENTRY.format(id=each, check=check) for each in ids)
        self.file(
            f"contracts/{name}.yaml", CONTRACT.format(id=contract_id, entries=entries, level=level)
        )

    def captures(self, *, version: str = "1", **errors: Any) -> None:
        """Make captures without a model; errors by falsifier, `_` in names stands for `-`."""
        named = {key.replace("_", "-"): value for key, value in errors.items()}
        self.file("conftest.py", CAPTURES.format(errors=named, version=version))

    def file(self, name: str, text: str) -> None:
        """Write a file."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))

    def run(self, *arguments: str) -> Ran:
        """Run pytest on the contracts; with ``-n 0`` in a process of its own, without workers."""
        is_apart = "-n" in arguments
        run = self.pytester.runpytest_subprocess if is_apart else self.pytester.runpytest_inprocess
        result = run("--falsify", *arguments)
        folder = self.path / "evidence"
        return Ran(result, {each.stem: each.read_text() for each in folder.glob("*.json")})


@pytest.fixture(scope="session", autouse=True)
def loaded() -> None:
    """Load what runs in this process import."""
    import safetensors.numpy  # noqa: F401
    import torch  # noqa: F401

    import pytest_falsify._bound
    import pytest_falsify._device
    import pytest_falsify._lint
    import pytest_falsify._session  # noqa: F401
    from pytest_falsify._loading import vocabulary
    from pytest_falsify.compare.comparison import compare_captures  # noqa: F401
    from pytest_falsify.contracts.load import load_contract  # noqa: F401
    from pytest_falsify.engines import device  # noqa: F401
    from pytest_falsify.report import refutation, summary  # noqa: F401

    vocabulary()


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty scratch project."""
    return Project(pytester, monkeypatch)


@pytest.fixture(params=[(), ("-n", "2")], ids=["alone", "workers"])
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Arguments: without and with xdist."""
    return request.param
