"""Every contract of the field is listed, and its falsifiers have a status and a reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

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

    done = _pytest(field, tmp_path, "--falsify-ledger=update", "-v")

    assert "Traceback" not in done.stdout + done.stderr
    contracts, namesakes = _by_id(expected)
    standings = {
        (id_, falsifier.id): _standing(contract, falsifier)
        for id_, contract in contracts.items()
        for falsifier in contract.falsifiers
    }
    assert standings == _told(done.stdout, contracts)
    # What nothing was observed of has no ledger.
    observed = {id_ for (id_, _), (status, _) in standings.items() if status == "BLOCKED"}
    ledgers = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("evidence/*")}
    assert observed == ledgers.keys()
    on_file = {
        (id_, falsifier): (block["status"], block["because"])
        for id_, ledger in ledgers.items()
        for falsifier, block in ledger["falsifiers"].items()
    }
    assert {key: each for key, each in standings.items() if key[0] in observed} == on_file
    # Two contracts of one id are denied, and named.
    denied = re.findall(r"^denied: (\S+) and \S+ are both called", done.stdout, re.MULTILINE)
    assert namesakes == {Path(each).name for each in denied}
    assert done.returncode == 1


def _by_id(expected):
    """The contracts that are told, and the names of the files whose id was taken before."""
    contracts, namesakes = {}, set()
    for path in sorted(expected):
        contract = expected[path]
        if contract.id in contracts:
            namesakes.add(path.name)
        else:
            contracts[contract.id] = contract
    return contracts, namesakes


def _standing(contract, falsifier):
    """Status and reason of a field's falsifier: tried at most by a command, and none may run."""
    if falsifier.check is None:
        return "UNTRIED", "no evidence"
    (target,) = contract.targets_of(falsifier)
    assert falsifier.check.kind == "command"
    return "BLOCKED", f"blocked on {target.name}: its command is not run without permission"


def _told(text, contracts):
    """Status and reason by contract and falsifier, as the summary tells them."""
    width = max(len(each.id) for one in contracts.values() for each in one.falsifiers)
    line = re.compile(rf"^  (.{{{width}}})  ([A-Z]+) +(\S.*)$")
    told, id_ = {}, ""
    for each in text.partition("= falsify =")[2].splitlines():
        head, found = re.match(r"(\S+)  ledger: ", each), line.match(each)
        id_ = head[1] if head else id_
        if found:
            key = id_, found[1].rstrip()
            assert key not in told
            told[key] = found[2], found[3]
    return told
