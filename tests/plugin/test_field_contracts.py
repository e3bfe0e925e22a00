"""Every contract of the field is listed, and its falsifiers have a status and a reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from pytest_falsify._loading import load
from pytest_falsify.errors import ContractError


@pytest.fixture(scope="module")
def field(root):
    folder = root.parent / "shared" / "data" / "contracts"
    if not folder.exists():
        pytest.skip("the contracts of the field are not here")
    return folder


@pytest.fixture(scope="module")
def expected(field):
    found = {}
    for path in sorted(field.rglob("*.y*ml")):
        try:
            contract = load(path)
        except ContractError:
            continue
        if contract is not None and contract.falsifiers:
            found[path] = contract
    return found


def _pytest(field, folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "--falsify", str(field)]
    return subprocess.run(
        [*command, "-c", "pytest.ini", "--rootdir", ".", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_falsifier_is_listed_without_a_traceback(field, expected, tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    done = _pytest(field, tmp_path, "--collect-only", "-q")

    listed = [line for line in done.stdout.splitlines() if "::" in line]
    assert sum(len(each.falsifiers) for each in expected.values()) == len(listed) > 800
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_run_gives_each_a_status_and_a_reason(field, expected, tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    done = _pytest(field, tmp_path, "--falsify-ledger=update", "-q", "-rs")

    assert "Traceback" not in done.stdout + done.stderr
    ledgers = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("evidence/*")}
    # What nothing was observed of has no ledger; two contracts of one id are denied, and named.
    assert ledgers.keys() <= {each.id for each in expected.values()}
    told = re.findall(r"^  \S+ +([A-Z]+)  +(\S.*)$", done.stdout, re.MULTILINE)
    assert {status for status, _ in told} <= {"UNTRIED", "BLOCKED"}
    assert len(told) >= 200
    blocks = [block for each in ledgers.values() for block in each["falsifiers"].values()]
    assert {block["status"] for block in blocks} <= {"UNTRIED", "BLOCKED"}
    assert all(block["because"] for block in blocks)
    assert "are both called" in done.stdout
    assert done.returncode == 1
