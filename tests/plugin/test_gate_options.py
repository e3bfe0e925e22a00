"""--falsify-gate with waivers, --falsify-require-lane and --falsify-expected-blocked."""

from __future__ import annotations

import datetime as dt

import pytest

TODAY = dt.datetime.now(tz=dt.UTC).date()
WAIVER = """
[[waiver]]
contract = "{contract}"
falsifier = "FALSIFY-A-1"
who = "ada"
why = "the kernel is being rewritten"
until = {until}
"""


def _waive(project, *, days=1, contract="C-ONE"):
    until = TODAY + dt.timedelta(days=days)
    project.file("falsify-waivers.toml", WAIVER.format(contract=contract, until=until))


def _live(project, **errors):
    project.contract("FALSIFY-A-1", level="live")
    project.captures(**errors)


def test_a_waiver_lets_pass_what_the_gate_would_deny_and_is_shown(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    assert project.run("contracts", "--falsify-gate=FUNCTIONAL").result.ret == 1
    _waive(project)

    ran = project.run("contracts", "--falsify-gate=FUNCTIONAL")

    assert ran.result.ret == 0
    ran.result.stdout.fnmatch_lines(["note: waived until * by ada (the kernel*FALSIFY-A-1*"])


def test_an_expired_waiver_denies_even_where_nothing_needs_it(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    _waive(project, days=-1)

    ran = project.run("contracts", "--falsify-gate")

    assert ran.result.ret == 1
    ran.result.stdout.fnmatch_lines(
        ["denied: gate: the waiver of ada for FALSIFY-A-1 ended * (falsify-waivers.toml:1)*"]
    )


@pytest.mark.parametrize(("contract", "notes"), [("C-ONE", 1), ("C-OTHER", 0)])
def test_a_waiver_that_nothing_needs_is_told_when_it_is_about_this_session(
    project, contract, notes
):
    project.contract("FALSIFY-A-1")
    project.captures()
    _waive(project, contract=contract)

    ran = project.run("contracts", "--falsify-gate")

    assert ran.result.ret == 0
    assert ran.text.count("nothing needs the waiver of FALSIFY-A-1") == notes


def test_a_waiver_does_not_cover_a_refutation_unless_it_says_so(project):
    project.contract("FALSIFY-A-1")
    project.captures(FALSIFY_A_1=0.5)
    _waive(project)

    ran = project.run("contracts", "--falsify-gate")

    assert "denied: gate: FALSIFY-A-1 is FALSIFIED" in ran.text


@pytest.mark.parametrize("text", ["[[waiver]]\nwho = 'ada'\n", "who = \n"])
def test_waivers_that_cannot_be_read_are_a_usage_error_before_anything_runs(project, text):
    project.contract("FALSIFY-A-1")
    project.captures()
    project.file("falsify-waivers.toml", text)

    ran = project.run("contracts", "--falsify-gate")

    assert ran.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "falsify-waivers.toml" in ran.text
    assert "Traceback" not in ran.text
    assert ran.ledgers == {}


def test_the_gate_denies_what_is_stale(project):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures()
    project.run("contracts")
    project.contract(
        "FALSIFY-A-1", "FALSIFY-A-2", check="{kind: identical, subject: subject, oracle: oracle}"
    )

    ran = project.run("contracts", "--falsify-gate", "-k", "FALSIFY-A-1")

    assert ran.result.ret == 1
    ran.result.stdout.fnmatch_lines(["denied: gate: FALSIFY-A-2 is STALE: *why FALSIFY-A-2"])


def test_the_gate_denies_an_incomplete_run(project):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures(FALSIFY_A_1="crash")

    ran = project.run("contracts", "--falsify-gate", "-n", "1")

    assert ran.result.ret == 3
    ran.result.stdout.fnmatch_lines(["denied: gate: the run did not report everything*"])


def test_the_gate_does_not_pass_over_a_ledger_that_cannot_be_read(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    project.run("contracts")
    ledger = project.path / "evidence/C-ONE.json"
    ledger.write_text(ledger.read_text()[:-20])

    ran = project.run("contracts", "--falsify-gate")

    assert ran.result.ret == 1
    ran.result.stdout.fnmatch_lines(["denied: evidence/C-ONE.json:*", "denied: gate: *"])


def test_where_signatures_are_demanded_the_gate_asks_who_may_sign(project):
    _live(project)
    contract = project.path / "contracts/one.yaml"
    text = contract.read_text().replace("  check:", "  discharge: {signed: true}\n  check:")
    contract.write_text(text)

    ran = project.run("contracts", "--falsify-gate")

    assert ran.result.ret == 1
    ran.result.stdout.fnmatch_lines(["denied: gate: FALSIFY-A-1 demands signatures*"])
    (project.path / "signers").write_text("")
    ini = (project.path / "tox.ini").read_text()
    (project.path / "tox.ini").write_text(f"{ini}\nfalsify_allowed_signers = signers\n")
    assert project.run("contracts", "--falsify-gate").result.ret == 0


# What the device is, is a fixture's word here: there may be no GPU.
DEVICE = """
@pytest.fixture
def falsify_device():
    return "{device}"
"""


def _on(project, device, *, wanted="cuda", **errors):
    project.contract("FALSIFY-A-1")
    project.captures(**errors)
    contract = project.path / "contracts/one.yaml"
    contract.write_text(contract.read_text().replace("device: cpu", f"device: {wanted}"))
    with (project.path / "conftest.py").open("a") as file:
        file.write(DEVICE.format(device=device))


def test_a_required_lane_that_ran_passes(project):
    _on(project, "cuda:0")

    assert project.run("contracts", "--falsify-require-lane=gpu").result.ret == 0


def test_a_required_lane_in_which_all_were_skipped_fails_with_the_reason(project):
    _on(project, "cuda:0", FALSIFY_A_1="blocked")

    ran = project.run("contracts", "--falsify-require-lane=gpu")

    assert ran.result.ret == 1
    ran.result.stdout.fnmatch_lines(
        ["denied: the lane `gpu` is required and none of 1 was decided: there is no such thing*"]
    )


def test_a_required_lane_in_which_nothing_was_selected_fails(project):
    project.contract("FALSIFY-A-1")
    project.captures()

    ran = project.run("contracts", "--falsify-require-lane=gpu")

    assert ran.result.ret == 1
    assert "denied: the lane `gpu` is required and no falsifier of it was tried" in ran.text


def test_an_inconclusive_lane_is_not_decided(project):
    _on(project, "cuda:0", FALSIFY_A_1="empty")

    assert project.run("contracts", "--falsify-require-lane=gpu").result.ret == 1


@pytest.mark.parametrize(("device", "status"), [("cpu", 1), ("cuda:0", 0)])
def test_a_target_on_any_device_ran_in_the_lane_of_the_one_it_had(project, device, status):
    _on(project, device, wanted="auto")

    ran = project.run("contracts", "--falsify-require-lane=gpu")

    assert ran.outcomes == {"passed": 1}
    assert ran.result.ret == status


def test_several_lanes_can_be_required(project):
    project.contract("FALSIFY-A-1")
    project.captures()
    lanes = ("--falsify-require-lane=cpu", "--falsify-require-lane=live")

    ran = project.run("contracts", *lanes)

    assert ran.result.ret == 1
    assert "the lane `live`" in ran.text
    assert "the lane `cpu`" not in ran.text


LISTED = "--falsify-expected-blocked=blocked.txt"
NAMES = ["contracts/one.yaml::FALSIFY-A-1[here]", "C-ONE::FALSIFY-A-1[here]"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_listed_may_be_blocked(project, name):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures(FALSIFY_A_1="blocked")
    project.file("blocked.txt", f"# no GPU here\n\n{name}  # for now\n")

    assert project.run("contracts", LISTED).result.ret == 0


@pytest.mark.parametrize("fault", ["blocked", "empty"])
def test_a_new_skip_fails_whatever_its_kind(project, fault):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures(FALSIFY_A_2=fault)
    project.file("blocked.txt", "")

    ran = project.run("contracts", LISTED)

    assert ran.result.ret == 1
    ran.result.stdout.fnmatch_lines(
        ["denied: contracts/one.yaml::FALSIFY-A-2[[]here] was * and is not listed in blocked.txt*"]
    )


@pytest.mark.parametrize(("fault", "became"), [(0.0, "held"), (0.5, "refuted"), ("empty", "inc")])
@pytest.mark.parametrize("name", NAMES)
def test_a_listed_item_that_runs_is_a_stale_line(project, name, fault, became):
    project.contract("FALSIFY-A-1")
    project.captures(FALSIFY_A_1=fault)
    project.file("blocked.txt", f"\n{name}\n")

    ran = project.run("contracts", LISTED)

    assert ran.result.ret == 1
    ran.result.stdout.fnmatch_lines(
        [f"denied: blocked.txt:*: stale line: * is listed as blocked and was {became}*"]
    )


def test_a_line_that_names_nothing_is_stale_and_one_that_is_not_selected_is_not(project):
    project.contract("FALSIFY-A-1", "FALSIFY-A-2")
    project.captures()
    project.file("blocked.txt", "C-ONE::FALSIFY-A-2[here]\nC-ONE::FALSIFY-A-9[here]\n")

    ran = project.run("contracts", LISTED, "-k", "FALSIFY-A-1")

    assert ran.result.ret == 1
    assert ran.text.count("denied: ") == 1
    assert "blocked.txt:2: stale line: there is no C-ONE::FALSIFY-A-9[here]" in ran.text


def test_an_untried_entry_is_a_skip_too(project):
    project.contract("FALSIFY-A-1")
    with (project.path / "contracts/one.yaml").open("a") as file:
        file.write("- {id: FALSIFY-A-2, rule: prose, test: run it by hand}\n")
    project.captures()
    project.file("blocked.txt", "")

    assert project.run("contracts", LISTED).result.ret == 1
    project.file("blocked.txt", "C-ONE::FALSIFY-A-2\n")
    assert project.run("contracts", LISTED).result.ret == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [("FALSIFY-A-1\n", "blocked.txt:1: 'FALSIFY-A-1' is not the name"),
     ("C::A\nC::A\n", "blocked.txt:2: C::A is listed twice, first on line 1"),
     (None, "blocked.txt: the list of what may be blocked cannot be read")],
)  # fmt: skip
def test_a_list_that_cannot_be_read_is_a_usage_error(project, text, words):
    project.contract("FALSIFY-A-1")
    project.captures()
    if text is not None:
        project.file("blocked.txt", text)

    ran = project.run("contracts", LISTED)

    assert ran.result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in ran.text
    assert "Traceback" not in ran.text
