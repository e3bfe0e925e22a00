import pytest

from pytest_falsify.contracts.digest import entry_digest
from pytest_falsify.contracts.load import load_contract, looks_like_contract
from pytest_falsify.contracts.model import Level
from pytest_falsify.errors import ContractError


def test_a_contract_is_read_as_it_is_written(load, executable):
    contract = load(executable)
    assert (contract.id, contract.version, contract.description) == ("C-TINY", "1.0.0", "small")
    assert contract.equations[0].invariants == ("equal", "always")
    big = contract.targets["big"]
    assert (big.device, big.level, big.memory, big.markers) == (
        "cuda:1",
        Level.LIVE,
        "24GiB",
        ("slow",),
    )
    assert contract.inputs["ids"].tokens == (1, 2, 3)
    first, second = contract.falsifiers
    assert (first.id, first.line, first.require) == ("FALSIFY-TINY-001", 15, "FUNCTIONAL")
    assert first.binds_to == ("same",)
    assert first.check.kind == "parity"
    assert first.check.parameters["expect"] == {"rel_l2": 0.001}
    assert [each.name for each in contract.targets_of(first)] == ["tiny", "big"]
    assert [each.name for each in contract.targets_of(second)] == ["tiny"]


def test_stage_aliases_are_resolved(load, executable):
    check = load(executable).falsifiers[0].check
    assert check.parameters["stages"] == ["attn_norm", "post_ffn_residual"]


def test_a_default_written_out_is_left_out(load, executable):
    written = load(executable.replace("layers: 0..2", "steps: 0")).falsifiers[0]
    assert "steps" not in written.check.parameters
    assert load(executable).captures["oracle"].options == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# a comment\n",
        "- a\n- b\n",
        "42",
        "bindings: []\nversion: 1\n",
        "family: qwen\nfalsification: none yet\n",
        "apiVersion: v1\n---\nkind: Pod\n",
        "a: {b\n",
        "qa_gate:\n  falsification: [\n",
    ],
)
def test_yaml_that_is_not_a_contract_is_left_alone(load, text):
    assert load(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "falsification_tests: [",
        "'falsification_tests': [",
        '{"falsification_tests": [',
        "{\n  'falsification_tests': [",
        "falsification:\n- a: b: c",
        "a: 1\na: 2\nfalsification_tests: []",
        "- a\n- falsification: b\nfalsification_tests: []",
        "falsification_tests: []\n---\nb: 1\n",
    ],
)
def test_a_broken_contract_is_an_error(load, text):
    with pytest.raises(ContractError) as caught:
        load(text)
    assert caught.value.line


def test_a_contract_in_utf_16_is_refused_and_not_overlooked(load):
    with pytest.raises(ContractError, match="not UTF-8"):
        load("falsification_tests: []\n".encode("utf-16"))


def test_a_contract_that_is_a_list_is_refused(load):
    with pytest.raises(ContractError, match="a contract is a mapping"):
        load("- x: 1\n-\n  falsification_tests: []\n")


def test_looks_are_judged_by_the_declaration_and_not_by_prose():
    assert looks_like_contract(b"a: 1\nfalsification_tests:\n- id: X\n")
    assert not looks_like_contract(b"a: 1 # falsification_tests are elsewhere\n")
    assert not looks_like_contract(b"qa_gate:\n  falsification: x\n")


def test_every_contract_of_the_field_loads(corpus, vocabulary):
    contracts = [load_contract(path, vocabulary=vocabulary) for path in corpus]
    found = [contract for contract in contracts if contract is not None]
    assert len(corpus) - len(found) == 12
    assert sum(len(contract.falsifiers) for contract in found) == 840
    assert all(falsifier.id for contract in found for falsifier in contract.falsifiers)


def test_forced_tokens_belong_to_an_input_and_to_what_a_falsifier_means(load, executable):
    usual = load(executable)
    forced = load(executable.replace("{tokens: [1, 2, 3]}", "{tokens: [1, 2, 3], forced: [7, 8]}"))

    assert usual.inputs["ids"].forced == ()
    assert forced.inputs["ids"].forced == (7, 8)
    first, second = (entry_digest(each, each.falsifiers[0]) for each in (usual, forced))
    assert first != second


@pytest.mark.parametrize("written", ["{forced: [7]}", "{tokens: [1], text: a, forced: [7]}"])
def test_forced_tokens_stand_beside_exactly_one_input(load, executable, written):
    with pytest.raises(ContractError, match="beside forced"):
        load(executable.replace("{tokens: [1, 2, 3]}", written))
