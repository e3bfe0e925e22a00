"""Commands run with permission only, and what they end with and print is the verdict."""

from __future__ import annotations

import json

import pytest

ALLOW = "--falsify-allow-commands"
HEAD = "metadata: {id: C-ONE}\nfalsification_tests:\n"


@pytest.fixture
def entry(project):
    def write(*lines, head=HEAD):
        text = "".join(f"  {line}\n" for line in lines)
        project.file("contracts/one.yaml", f"{head}- id: FALSIFY-A-1\n  rule: it does\n{text}")
        return project

    return write


def _observed(ran):
    block = json.loads(ran.ledgers["C-ONE"])["falsifiers"]["FALSIFY-A-1"]
    return block["evidence"][0]


def test_without_permission_nothing_runs_and_the_entry_is_blocked(entry):
    project = entry("test: touch ran.txt")

    ran = project.run("contracts", "-rs")

    assert ran.outcomes == {"skipped": 1}
    assert ran.statuses() == {"FALSIFY-A-1": "BLOCKED"}
    assert "--falsify-allow-commands" in ran.text
    assert not list(project.path.rglob("ran.txt"))


def test_a_test_string_that_is_a_command_runs_on_the_host(entry):
    project = entry("test: ls one.yaml")

    ran = project.run("contracts", ALLOW)

    assert ran.outcomes == {"passed": 1}
    assert ran.statuses() == {"FALSIFY-A-1": "PARTIAL"}
    evidence = _observed(ran)
    assert (evidence["target"], evidence["source"]) == ("host", "algorithm")
    assert evidence["observed"]["output"] == "one.yaml\n"
    assert evidence["observed"]["exit"] == 0


def test_the_ini_gives_permission_too(entry):
    project = entry("test: ls one.yaml")
    project.pytester.makeini(
        "[pytest]\naddopts = -p no:randomly -p no:cacheprovider\nfalsify_allow_commands = true\n"
    )

    assert project.run("contracts").outcomes == {"passed": 1}


def test_another_exit_status_refutes_and_the_output_is_shown(entry):
    project = entry("check: {kind: command, run: 'echo why not >&2; exit 3'}")

    ran = project.run("contracts", ALLOW)

    assert ran.statuses() == {"FALSIFY-A-1": "FALSIFIED"}
    assert "the exit status is 3, 0 was expected: why not" in ran.text


@pytest.mark.parametrize(
    ("run", "expect", "status"),
    [
        ("exit 3", "{exit: 3}", "PARTIAL"),
        ("echo 5 passed", "{matches: '^5 passed'}", "PARTIAL"),
        ("echo 5 passed", "{matches: '^6 passed'}", "FALSIFIED"),
        ("echo one error", "{lacks: error}", "FALSIFIED"),
        ('echo \'{"a": [{"b": 0.5}]}\'', "{json: {a.0.b: {min: 0.4, max: 0.6}}}", "PARTIAL"),
        ('echo \'{"a": [{"b": 0.5}]}\'', "{json: {a.0.b: {max: 0.4}}}", "FALSIFIED"),
        ("echo '{\"a\": NaN}'", "{json: {a: {max: 0.4}}}", "FALSIFIED"),
        ("echo '{\"a\": 1}'", "{json: {a: true}}", "FALSIFIED"),
        ("echo '{\"a\": 1}'", "{json: {b: 1}}", "FALSIFIED"),
        ("echo no json", "{json: {a: 1}}", "FALSIFIED"),
        ("false | cat", "{}", "FALSIFIED"),
        ("no-such-program-anywhere", "{}", "UNTRIED"),
    ],
)
def test_what_is_expected_decides(entry, run, expect, status):
    project = entry("check:", "  kind: command", f"  run: {json.dumps(run)}", f"  expect: {expect}")

    assert project.run("contracts", ALLOW).statuses() == {"FALSIFY-A-1": status}


def test_a_command_that_does_not_end_is_inconclusive(entry):
    project = entry("check: {kind: command, run: sleep 60, timeout: 0.2}")

    ran = project.run("contracts", ALLOW, "-rs")

    assert ran.statuses() == {"FALSIFY-A-1": "UNTRIED"}
    assert "did not end within 0.2 s" in ran.text


def test_a_placeholder_is_refused_before_a_shell_sees_it(entry):
    project = entry("check: {kind: command, run: 'touch ran.txt; mine <model>'}")

    ran = project.run("contracts", ALLOW)

    assert ran.outcomes == {"errors": 1}
    assert "`<model>` is a placeholder" in ran.text
    assert not list(project.path.rglob("ran.txt"))


@pytest.mark.parametrize(
    ("test", "why"),
    [
        ("run the model on a GPU by hand", "its `test:` is prose"),
        ("apr trace <model>", "`<model>` is a placeholder"),
        ("engine::tests::falsify_it", "its `test:` names a test that pytest cannot find"),
    ],
)
def test_prose_and_placeholders_are_untried_and_say_why(entry, test, why):
    ran = entry(f"test: {json.dumps(test)}").run("contracts", ALLOW, "-rs")

    assert ran.outcomes == {"skipped": 1}
    assert ran.statuses() == {"FALSIFY-A-1": "UNTRIED"}
    assert "UNTRIED: " + why in ran.text


def test_the_working_directory_is_below_the_repository(entry):
    project = entry("check: {kind: command, run: ls here.txt, cwd: data}")
    (project.path / ".git").mkdir()
    project.file("data/here.txt", "")

    assert project.run("contracts", ALLOW).outcomes == {"passed": 1}


def test_a_changed_source_makes_what_a_command_showed_stale(entry):
    project = entry("check: {kind: command, run: cat a.txt, sources: ['a.txt']}")
    (project.path / ".git").mkdir()
    project.file("a.txt", "1")
    first = _observed(project.run("contracts", ALLOW))["subject"]
    project.file("a.txt", "2")

    assert _observed(project.run("contracts", ALLOW))["subject"] != first


def test_a_command_on_a_live_target_is_functional_and_others_keep_their_targets(entry):
    head = (
        "metadata: {id: C-ONE}\ntargets: {server: {model: m, level: live}}\n"
        "captures: {a: {engine: transformers}}\ninputs: {p: {tokens: [1]}}\n"
        "falsification_tests:\n"
        "- {id: FALSIFY-A-2, rule: r, check: {kind: deterministic, subject: a}}\n"
    )
    project = entry("targets: [server]", "check: {kind: command, run: 'true'}", head=head)

    ran = project.run("contracts", ALLOW, "-k", "FALSIFY-A-1")
    listed = project.run("contracts", "--collect-only", "-q").text

    assert ran.statuses()["FALSIFY-A-1"] == "FUNCTIONAL"
    assert "FALSIFY-A-2[server]" in listed
    assert "FALSIFY-A-2[host]" not in listed
