from pathlib import Path

import pytest

from pytest_falsify._loading import vocabulary as installed
from pytest_falsify.contracts.lint.finding import Severity
from pytest_falsify.contracts.lint.rules import RULES, severities
from pytest_falsify.contracts.lint.run import lint
from pytest_falsify.contracts.lint.sources import Sources
from pytest_falsify.errors import FalsifyError

PAGES = Path(__file__).parents[3] / "docs" / "lint"

CLEAN = """\
metadata: {id: C-CLEAN, version: 1.0.0, depends_on: [other-v1]}
equations:
  same: {formula: y = x, invariants: [equal]}
proof_obligations:
- {id: O-1, type: bound, property: "|y - x| <= e", requires: O-2, discharged_by: A-1}
- {id: O-2, type: precondition, property: x is finite}
kani_harnesses:
- {id: K-1, obligation: O-1, location: "src/lib.rs::holds"}
falsification_tests:
- id: A-1
  rule: r
  binds_to: same
  test: tests/test_a.py::test_it
  algorithm_evidence: ["src/lib.rs (checks_it + checks_more)", "src/kernel.cu::launch"]
- {id: A-2, rule: r, binds_to: [O-2], test: "cargo test a", status: PARTIAL}
qa_gate: {pass_criteria: All 2 falsification tests pass}
verification_summary: {total_obligations: 2, tested: 2}
"""
RUST = """\
#[test]
fn holds() {}
pub fn checks_it() {}
#[cfg(test)]
mod tests { #[test] #[ignore] fn checks_more() {} proptest! { fn in_macro(a in 0..1) {} } }
"""
PYTHON = "def test_it():\n    assert f()\n\ndef helper():\n    def test_inner(): assert 1\n"


@pytest.fixture
def tree(tmp_path):
    for name, text in {
        "src/lib.rs": RUST,
        "src/kernel.cu": "__global__ void launch(float* x) { x[0] = 1; }\n",
        "tests/test_a.py": PYTHON,
        "tests/a.py": "def test_it():\n    assert 1\n",
        "contracts/other-v1.yaml": "falsification_tests: [{id: Z-1, rule: r}]\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def found(tree, vocabulary):
    """Lint one text and return the findings in it, without those of its neighbour."""

    def of(text, **options):
        path = tree / "contracts" / "clean-v1.yaml"
        path.write_text(text)
        report = lint(
            (tree / "contracts").glob("*.yaml"),
            vocabulary=vocabulary,
            sources=Sources(tree),
            **options,
        )
        return [each for each in report.findings if each.path == path]

    return of


def test_a_clean_contract_is_clean(found):
    assert found(CLEAN, statuses={"A-2": "PARTIAL"}) == []


@pytest.mark.parametrize(
    ("change", "rule", "line", "words"),
    [
        (("id: A-1\n", "id: Z-1\n"), "dangling-discharged-by", 5, "`A-1` names no"),
        (("id: A-2", "id: 'A 2'"), "unselectable-id", 15, "`A 2`"),
        (("{id: A-2, ", "{"), "missing-id", 15, "`falsification_tests-2`"),
        (("qa_gate:", "colour: red\nqa_gate:"), "unknown-key", 16, "`colour`"),
        (("metadata:", "version: 1\nmetadata:"), "contradicting-metadata", 1, "`1` here"),
        (("binds_to: same", "binds_to: [same, sane]"), "dangling-binding", 12,
         "did you mean `same`?"),
        (("obligation: O-1", "obligation: SM-INV-1"), "dangling-obligation", 8, "`SM-INV-1`"),
        (("requires: O-2", "requires: O-3"), "dangling-requires", 5, "`O-3`"),
        (("discharged_by: A-1", "discharged_by: [A-1, A-9]"), "dangling-discharged-by", 5, "`A-9`"),
        (("[other-v1]", "[other-v2]"), "dangling-depends-on", 1, "`other-v2`"),
        (("binds_to: same", "binds_to: O-1"), "unfalsifiable-invariant", 3, "nothing tries"),
        (("[O-2]", "same"), "unfalsifiable-obligation", 6, "`O-2`"),
        (("kani_harnesses", "- {type: bound, property: p, discharged_by: A-1}\nkani_harnesses"),
         "fewer-falsifiers", 4, "2 falsifiers for 3"),
        (("src/lib.rs (", "src/gone.rs ("), "missing-file", 14, "`src/gone.rs`"),
        (("lib.rs::holds", "lib.rs::tests::held"), "missing-function", 8, "no `held`"),
        (("checks_more", "checks_less"), "missing-function", 14, "no `checks_less`"),
        (("kernel.cu::launch", "kernel.cu::lunch"), "missing-function", 14, "no `lunch`"),
        (("test_a.py::test_it", "test_a.py::test_that"), "missing-function", 13, "`test_that`"),
        (("test_a.py::test_it", "test_a.py::helper"), "uncollected-test", 13, "does not begin"),
        (("test_a.py::test_it", "test_a.py::test_inner"), "uncollected-test", 13, "inside another"),
        (("tests/test_a.py", "tests/a.py"), "uncollected-test", 13, "pytest collects"),
        (("cargo test a", "run it by hand"), "unrunnable-test", 15, "prose"),
        (("cargo test a", "cargo test <name>"), "unrunnable-test", 15, "placeholder"),
        (("rule: r\n", "rule: cosine >= 0.99 and cos_sim(a, b) > 0.999\n"),
         "several-thresholds", 11, "cosine is to be at least 0.99 (line 11), 0.999 (line 11)"),
        (("All 2", "All 7"), "wrong-count", 16, "there are 2"),
        (("total_obligations: 2", "total_obligations: 5"), "wrong-count", 17, "it says 5"),
        (("tested: 2", "tested: 0"), "wrong-count", 17, "nothing was tested"),
        (("tested: 2", "l3_kani_proved: 2"), "wrong-count", 17, "there are 1 harnesses"),
        (("status: PARTIAL", "status: DISCHARGED"), "overclaimed", 15, "supports PARTIAL"),
        (("metadata:", "status: ACTIVE_RUNTIME\nmetadata:"), "overclaimed", 1, "supports UNTRIED"),
        (("equations:", "equations: &x *y\nz:"), "broken-contract", 2, "not YAML"),
    ],
)  # fmt: skip
def test_a_rule_finds_what_it_is_for(found, change, rule, line, words):
    assert change[0] in CLEAN
    hits = found(CLEAN.replace(*change, 1), statuses={"A-2": "PARTIAL"})
    hit = next((each for each in hits if each.rule == rule and words in each.text), None)
    assert hit is not None, hits
    assert hit.line == line


def test_an_id_in_two_contracts_is_found_in_the_second(found, tree, vocabulary):
    assert not [each for each in found(CLEAN) if each.rule == "duplicate-id"]
    (tree / "contracts" / "copy-v1.yaml").write_text(CLEAN)
    report = lint((tree / "contracts").glob("*.yaml"), vocabulary=vocabulary, sources=Sources(tree))
    texts = [each.text for each in report.findings if each.rule == "duplicate-id"]
    assert texts[0] == "`A-1` is also an id in clean-v1.yaml, line 10"
    assert len(texts) == 2


def test_a_contract_without_falsifiers_is_inert(found):
    assert [each.rule for each in found("falsification_tests: []")] == ["inert-contract"]


def test_names_in_a_file_that_cannot_be_parsed_are_reported_as_unread(found, tree):
    (tree / "src" / "broken.py").write_text("def (:\n")
    text = CLEAN.replace("src/kernel.cu::launch", "src/broken.py::f")
    assert [each.rule for each in found(text)] == ["unread-source"]


def test_without_a_ledger_nothing_is_overclaimed(found):
    assert found(CLEAN.replace("status: PARTIAL", "status: DISCHARGED")) == []


def test_several_thresholds_in_a_check_are_not_prose(found, executable):
    rules = {each.rule for each in found(executable)}
    assert "several-thresholds" not in rules


@pytest.mark.parametrize(
    ("old", "demand", "count"),
    [
        ("  require: FUNCTIONAL", "{repeats: 3}", 1),
        ("  require: FUNCTIONAL", "{machines: 3}", 0),
        ("  targets: [tiny]", "{repeats: 3}", 0),
    ],
)
def test_repeats_are_not_demanded_of_a_check_that_repeats_nothing(
    found, executable, old, demand, count
):
    text = executable.replace(old, f"{old}\n  discharge: {demand}")
    hits = [each for each in found(text) if each.rule == "unmet-repeats"]
    assert [each.line for each in hits] == [text[: text.index("discharge")].count("\n") + 1] * count
    assert all("`parity` repeats nothing" in each.text for each in hits)


def test_repeats_may_be_demanded_of_the_checks_that_say_they_repeat():
    assert installed().repeating == {"deterministic"}


def test_one_broken_contract_does_not_hide_the_others(tree, vocabulary):
    (tree / "contracts" / "broken.yaml").write_text("falsification_tests: [")
    (tree / "contracts" / "family.yaml").write_text("family: qwen\n")
    report = lint((tree / "contracts").glob("*.yaml"), vocabulary=vocabulary, sources=Sources(tree))
    assert (report.contracts, report.left_alone, report.has_errors) == (1, 1, True)


def test_severities_are_the_projects(found):
    text = CLEAN.replace("All 2", "All 7")
    assert [each.severity for each in found(text)] == [Severity.ERROR]
    assert [each.severity for each in found(text, settings={"wrong-count": "note"})] == [
        Severity.NOTE
    ]
    assert found(text, settings={"wrong-count": "off"}) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"wrong-cuont": "off"}, "did you mean `wrong-count`"), ({"wrong-count": "warn"}, "warning")],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(FalsifyError) as caught:
        severities(settings)
    assert words in str(caught.value)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_every_rule_has_a_page_that_gives_its_reason(rule):
    page = (PAGES / f"{rule.id}.md").read_text()
    assert page.startswith(f"# {rule.id}\n\n{rule.reason}\n")
    assert f"**{rule.severity.value}**" in page
    assert "## To mend" in page


def test_no_page_is_of_a_rule_that_is_gone():
    assert {path.stem for path in PAGES.glob("*.md")} == {*RULES, "index"}


def test_the_drift_of_the_field_is_found(corpus, vocabulary):
    root = corpus[0].parents[1]
    report = lint(corpus, vocabulary=vocabulary, sources=Sources(root))
    places = {(each.rule, each.path.name) for each in report.findings}
    assert ("dangling-requires", "rope-kernel-v1.yaml") in places
    assert ("several-thresholds", "layer-parity-v1.yaml") in places
    assert ("wrong-count", "qwen2-e2e-verification-v1.yaml") in places
    assert ("wrong-count", "apr-cli-trace-save-tensor-v1.yaml") in places
    dangling = [each for each in report.findings if each.rule == "dangling-obligation"]
    assert len(dangling) == 134
    assert report.contracts == 171
