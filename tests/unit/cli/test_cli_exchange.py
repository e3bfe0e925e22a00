"""git's helpers in a real repository with real branches, signatures and attestations."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

A1, A2, A3 = "FALSIFY-A-1", "FALSIFY-A-2", "FALSIFY-A-3"


def _two_branches(repository, ours, theirs):
    """Commit a ledger, then let two branches record one piece of evidence each."""
    repository.on_file(*(repository.evidence(each, target="tiny") for each in (A1, A2, A3)))
    repository.commit("base")
    repository.git("checkout", "-q", "-b", "theirs")
    repository.on_file(theirs)
    repository.commit("theirs")
    repository.git("checkout", "-q", "main")
    repository.on_file(ours)
    repository.commit("ours")


def _statuses(repository):
    found = json.loads(repository.cli("status", "--format", "json"))["C-A"]
    return [found[each]["status"] for each in (A1, A2, A3)]


def _configure_driver(repository):
    command = f'"{sys.executable}" -c "from pytest_falsify.cli import main; main()"'
    repository.git("config", "merge.falsify.driver", f"{command} merge-driver %O %A %B %P")
    repository.git("config", "diff.falsify.textconv", f"{command} textconv")
    (repository.path / ".gitattributes").write_text("evidence/*.json merge=falsify diff=falsify\n")
    repository.commit("configured")


def test_edits_of_neighbouring_falsifiers_merge_without_any_driver(repository):
    _two_branches(repository, repository.evidence(A1), repository.evidence(A2))

    repository.git("merge", "-q", "theirs")

    assert _statuses(repository) == ["FUNCTIONAL", "FUNCTIONAL", "PARTIAL"]
    assert "0 problems" in repository.cli("verify")


def test_edits_of_one_falsifier_conflict_without_the_driver_and_the_gate_is_shut(repository):
    _two_branches(repository, repository.evidence(A1, on="a"), repository.evidence(A1, on="b"))

    assert repository.git("merge", "-q", "theirs", check=False).returncode == 1

    assert "conflict markers of a merge" in repository.cli("gate", "--require=PARTIAL", status=1)


def test_the_driver_unites_the_evidence_of_two_branches(repository):
    _configure_driver(repository)
    _two_branches(repository, repository.evidence(A1, on="a"), repository.evidence(A1, on="b"))

    repository.git("merge", "-q", "theirs")

    assert _statuses(repository) == ["DISCHARGED", "PARTIAL", "PARTIAL"]
    assert "0 problems" in repository.cli("verify")


def test_the_driver_keeps_a_refutation_of_either_branch(repository):
    _configure_driver(repository)
    refuted = repository.evidence(A1, "refuted", on="b")
    _two_branches(repository, repository.evidence(A1, on="a"), refuted)

    repository.git("merge", "-q", "theirs")

    assert _statuses(repository)[0] == "FALSIFIED"


@pytest.mark.parametrize("spoilt", [b"{", b"\xff\xfe{}"])
def test_the_driver_leaves_to_a_person_what_it_cannot_read(repository, spoilt):
    _configure_driver(repository)
    _two_branches(repository, repository.evidence(A1, on="a"), repository.evidence(A1, on="b"))
    repository.git("checkout", "-q", "theirs")
    repository.ledger.write_bytes(spoilt)
    repository.commit("spoilt")
    repository.git("checkout", "-q", "main")

    merged = repository.git("merge", "-q", "theirs", check=False)

    assert merged.returncode == 1
    assert "evidence/C-A.json" in repository.git("diff", "--name-only", "--diff-filter=U").stdout
    assert "Traceback" not in merged.stdout + merged.stderr


def test_git_diff_tells_a_ledger_in_few_lines(repository):
    _configure_driver(repository)
    _two_branches(repository, repository.evidence(A1, on="a"), repository.evidence(A2))

    shown = repository.git("diff", "main~1", "main", "--", "evidence").stdout

    assert "-FALSIFY-A-1: PARTIAL: held on tiny" in shown
    assert "+FALSIFY-A-1: FUNCTIONAL: held live on teacher (1 machine)" in shown
    assert "sha256" not in shown.partition("@@")[2]


def test_export_gives_in_toto_statements(repository):
    repository.on_file(repository.evidence(A1), repository.evidence(A2, "refuted"))

    lines = repository.cli("export", repository.ledger).splitlines()

    results = [json.loads(each) for each in lines]
    assert {each["_type"] for each in results} == {"https://in-toto.io/Statement/v1"}
    assert "FALSIFY-A-2" in json.dumps(results)


@pytest.fixture
def key(tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh-keygen here; to mend: install OpenSSH")
    path = tmp_path / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", str(path)]
    subprocess.run(command, check=True)
    public = path.with_suffix(".pub").read_text()
    (tmp_path / "allowed").write_text(f'ada namespaces="pytest-falsify" {public}')
    (tmp_path / "nobody").write_text("")
    return path


def _demand_signatures(repository):
    text = (repository.path / "contracts/a.yaml").read_text()
    demand = "  rule: they agree\n  discharge: {machines: 1, signed: true}\n"
    changed = text.replace("  rule: they agree\n", demand)
    (repository.path / "contracts/a.yaml").write_text(changed)
    repository.on_file(*(repository.evidence(each) for each in (A1, A2, A3)))


def test_signed_evidence_discharges_where_it_is_demanded(repository, key):
    _demand_signatures(repository)
    assert _statuses(repository) == ["FUNCTIONAL"] * 3

    out = repository.cli("sign", repository.ledger, "--key", key, "--signer", "ada")

    assert out == f"{repository.ledger}: signed\n"
    assert _statuses(repository) == ["DISCHARGED"] * 3
    assert "0 problems" in repository.cli("verify", "--allowed-signers", "allowed")
    signed = repository.ledger.read_bytes()
    assert "unchanged" in repository.cli("sign", repository.ledger, "--key", key, "--signer", "ada")
    assert repository.ledger.read_bytes() == signed


def test_the_gate_asks_who_may_sign_and_refuses_others(repository, key):
    _demand_signatures(repository)
    repository.cli("sign", repository.ledger, "--key", key, "--signer", "ada")
    demanded = ("gate", "--require=DISCHARGED")

    out = repository.cli(*demanded, status=1)
    assert "denied: FALSIFY-A-1 demands signatures, and nobody says who may sign" in out
    assert "the gate is open" in repository.cli(*demanded, "--allowed-signers", "allowed")
    out = repository.cli(*demanded, "--allowed-signers", "nobody", status=1)
    assert "denied: the signature of ada on evidence of FALSIFY-A-1 on " in out
    assert " does not hold" in out


def test_signing_with_what_is_no_key_changes_nothing(repository, tmp_path):
    repository.on_file(repository.evidence(A1))
    before = repository.ledger.read_bytes()
    (tmp_path / "key").write_text("not a key\n")

    out = repository.cli("sign", repository.ledger, "--key", "key", "--signer", "ada", status=2)

    assert "it could not be signed" in out
    assert repository.ledger.read_bytes() == before
