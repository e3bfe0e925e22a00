import pytest

from pytest_falsify.contracts.load import load_contract
from pytest_falsify.contracts.statuses import canonical_status
from pytest_falsify.errors import ContractError


def only(contract):
    assert len(contract.falsifiers) == 1
    return contract.falsifiers[0]


def test_the_usual_dialect(load):
    falsifier = only(
        load("""
falsification_tests:
- id: FALSIFY-A-001
  rule: a rule
  prediction: it holds
  test: cargo test a
  if_fails: it is broken
  binds_to: [one, two]
  status: PARTIAL_ALGORITHM_LEVEL
""")
    )
    assert (falsifier.rule, falsifier.prediction) == ("a rule", "it holds")
    assert (falsifier.test, falsifier.if_fails) == ("cargo test a", "it is broken")
    assert falsifier.binds_to == ("one", "two")
    assert falsifier.claimed_status == "PARTIAL_ALGORITHM_LEVEL"
    assert falsifier.line == 3
    assert falsifier.check is None
    assert not falsifier.extra


def test_the_dialect_of_names_commands_and_expectations(load):
    falsifier = only(
        load("""
falsification_tests:
- id: FALSIFY-PM-001
  name: schema_required_fields
  description: every field is there
  command: apr check
  expected: exit 0
  fails_if: a field is missing
""")
    )
    assert falsifier.rule == "every field is there"
    assert (falsifier.test, falsifier.prediction) == ("apr check", "exit 0")
    assert falsifier.if_fails == "a field is missing"
    assert falsifier.extra == {"name": "schema_required_fields"}


def test_the_dialect_of_kinds_and_sites(load):
    falsifier = only(
        load(
            "falsification_tests:\n"
            "- {id: A, invariant: I-1, test_kind: unit, site: 'a.rs::tests::b', prediction: p}\n"
        )
    )
    assert falsifier.cited == ("a.rs::tests::b",)
    assert falsifier.rule == "I-1"
    assert falsifier.extra["test_kind"] == "unit"


def test_the_old_list_of_conditions_gets_ids_from_positions(load):
    first, second = load("""
falsification:
- {condition: it exits non-zero, severity: P0, action: reject}
- {condition: no citation, severity: P1}
""").falsifiers
    assert (first.id, first.is_named, first.rule) == (
        "falsification-1",
        False,
        "it exits non-zero",
    )
    assert first.if_fails == "reject"
    assert first.extra == {"severity": "P0"}
    assert (second.id, second.line) == ("falsification-2", 4)


def test_the_old_mapping_is_keyed_by_ids(load):
    falsifier = only(
        load("falsification:\n  FALSIFY-A-001: {name: n, assertion: it loads, status: PASS}\n")
    )
    assert (falsifier.id, falsifier.is_named, falsifier.line) == ("FALSIFY-A-001", True, 2)
    assert (falsifier.prediction, falsifier.claimed_status) == ("it loads", "PASS")


def test_the_old_mapping_about_a_known_falsifier_is_a_note_about_it(load):
    falsifier = only(
        load("""
falsification_tests:
- {id: A, rule: r}
falsification:
  A: {status: PASS}
""")
    )
    assert falsifier.extra == {"falsification": {"status": "PASS"}}


def test_both_lists_stand_side_by_side(load):
    found = load("falsification_tests: [{id: A}]\nfalsification: [{id: B}, {condition: c}]")
    assert [each.id for each in found.falsifiers] == ["A", "B", "falsification-2"]


def test_an_empty_contract_is_still_one(load):
    assert load("falsification: []").falsifiers == ()
    assert load("falsification_tests:").falsifiers == ()


@pytest.mark.parametrize(
    ("evidence", "cited"),
    [
        ("[a.rs::f, 'b.rs (g + h)']", ("a.rs::f", "b.rs (g + h)")),
        ("{file_paths: [a.rs], function_names: [f, g], notes: prose}", ("a.rs", "f", "g")),
        ("{status: PARTIAL, last_verified: 2026-01-01, test_locations: [a.rs:3]}", ("a.rs:3",)),
        ("a.rs", ("a.rs",)),
    ],
)
def test_evidence_is_cited_in_any_shape(load, evidence, cited):
    text = f"falsification_tests: [{{id: A, algorithm_evidence: {evidence}}}]"
    falsifier = only(load(text))
    assert cited == falsifier.cited
    assert "algorithm_evidence" in falsifier.extra


def test_equations_are_a_mapping_or_a_list(load):
    mapping = load("""
falsification_tests: []
equations:
  softmax: {formula: e, domain: R, invariants: [sums to one]}
  short: y = x
""").equations
    assert [each.name for each in mapping] == ["softmax", "short"]
    assert mapping[0].invariants == ("sums to one",)
    assert mapping[0].extra == {"domain": "R"}
    assert mapping[1].formula == "y = x"
    listed = load("""
falsification_tests: []
equations:
- {id: softmax, formula: e}
- {formula: f}
""").equations
    assert [(each.name, each.line) for each in listed] == [("softmax", 4), ("equation_2", 5)]


def test_obligations_keep_their_tolerance_and_the_rest(load):
    first, second = load("""
falsification_tests: []
proof_obligations:
- {type: bound, property: p, tolerance: 1e-5, discharged_by: X}
- {id: O-2, statement: s, verification: v, tolerance: 1 ULP}
""").obligations
    assert (first.kind, first.property, first.tolerance) == ("bound", "p", 1e-5)
    assert first.extra == {"discharged_by": "X"}
    assert (second.id, second.property, second.formal) == ("O-2", "s", "v")
    assert second.tolerance == "1 ULP"


@pytest.mark.parametrize(
    ("top", "name"),
    [
        ("metadata: {id: C-A}\ncontract_id: C-B", "C-A"),
        ("contract_id: C-B\ncontract: c", "C-B"),
        ("contract: attn-v1", "attn-v1"),
        ("name: Some prose about it", "claims-v1"),
        ("metadata: {id: a/b}", "claims-v1"),
        ("metadata:", "claims-v1"),
    ],
)
def test_the_id_of_a_contract_can_be_a_file_name(load, top, name):
    assert load(f"{top}\nfalsification_tests: []").id == name


def test_metadata_speaks_before_the_top_level(load):
    contract = load(
        "metadata: {version: 1.10, status: ACTIVE}\n"
        "version: 1\nstatus: DRAFT\nfalsification_tests: []"
    )
    assert contract.claimed_status == "ACTIVE"
    assert contract.extra["version"] == 1


def test_unknown_keys_are_kept_and_reported_once(load):
    contract = load("""
falsification_tests:
- {id: A, colour: red}
- {id: B, colour: blue}
my_notes: {a: 1}
""")
    assert contract.extra == {"my_notes": {"a": 1}}
    assert [each.extra["colour"] for each in contract.falsifiers] == ["red", "blue"]
    (notice,) = contract.notices
    assert notice.line == 3
    assert notice.text == "keys that nothing reads: `my_notes`, `falsification_tests[].colour`"


def test_known_keys_are_not_reported(load, executable):
    assert load(executable).notices == ()


@pytest.mark.parametrize("key", ["falsification_test", "falsificaton_tests", "Falsification_tests"])
def test_a_misspelt_section_is_not_lost_in_silence(load, key):
    with pytest.raises(ContractError) as caught:
        load(f"a: 1\n{key}: []\n")
    assert (caught.value.line, caught.value.remedy) == (2, "rename it to `falsification_tests`")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PARTIAL_ALGORITHM_LEVEL", "PARTIAL"),
        ("ALGORITHM_LEVEL_DISCHARGED", "PARTIAL"),
        ("BLOCKER_FIXTURE_ABSENT", "BLOCKED"),
        ("FUNCTIONAL", "FUNCTIONAL"),
        ("discharged", "DISCHARGED"),
        ("DISCHARGED (see the note)", "DISCHARGED"),
        ("`LIVE-DISCHARGED`", "DISCHARGED"),
        ("VERIFIED — 129.9 TFLOP/s", None),
        ("PROPOSED", None),
        ("", None),
    ],
)
def test_status_words_of_the_field_are_ours(text, expected):
    assert expected == canonical_status(text)


def test_a_long_status_name_is_required_by_our_name(load, executable):
    contract = load(executable.replace("require: FUNCTIONAL", "require: PARTIAL_ALGORITHM_LEVEL"))
    assert contract.falsifiers[0].require == "PARTIAL"


def test_nothing_of_an_entry_is_lost(corpus, vocabulary):
    for path in corpus:
        contract = load_contract(path, vocabulary=vocabulary)
        for falsifier in contract.falsifiers if contract else ():
            assert falsifier.rule or falsifier.prediction, f"{path}: {falsifier.id}"
