import pytest

from pytest_falsify.contracts.problems import ContractErrors
from pytest_falsify.contracts.schemas import contract_schema
from pytest_falsify.errors import ContractError


@pytest.fixture
def refused(load, executable):
    """Make one change to a good contract and return the error."""

    def change(old, new):
        assert old in executable
        with pytest.raises(ContractError) as caught:
            load(executable.replace(old, new, 1))
        return caught.value

    return change


def test_the_schema_is_a_schema():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(contract_schema())


@pytest.mark.parametrize(
    ("change", "what", "at", "remedy"),
    [
        (("kind: parity", "kind: partiy"),
         "unknown check kind `partiy`",
         "falsification_tests[0].check.kind: one of deterministic, parity",
         "did you mean `parity`?"),
        (("subject: subject\n", "subject: subjct\n"),
         "unknown capture `subjct`",
         "falsification_tests[0].check.subject: one of control, oracle, subject",
         "did you mean `subject`?"),
        (("{control: control}", "{control: contrl}"),
         "unknown capture `contrl`",
         "falsification_tests[0].check.noise.control", "did you mean `control`?"),
        (("layers: 0..2", "layrs: all"),
         "unknown key `layrs`",
         "falsification_tests[0].check.layrs: one of", "did you mean `layers`?"),
        (("layers: 0..2", "layers: 2..2"),
         "the range `2..2` holds no layer",
         "falsification_tests[0].check.layers", "did you mean `2..3`?"),
        (("layers: 0..2", "layers: first"),
         "`first` is not what `layers` can be",
         "falsification_tests[0].check.layers: `all`, a list", None),
        (("layers: 0..2", "layers: [0, -1]"),
         "`-1` is not what `layers` can be",
         "falsification_tests[0].check.layers[1]: a layer", None),
        (("[attn_norm,", "[atn_norm,"),
         "unknown stage `atn_norm`",
         "falsification_tests[0].check.stages[0]: one of embedding", None),
        (("rel_l2: 1e-3", "rel_l2: .nan"),
         "`nan` is not a finite number",
         "falsification_tests[0].check.expect.rel_l2", None),
        (("rel_l2: 1e-3", "rel_l2: small"),
         "`rel_l2` is a string (`small`)",
         "falsification_tests[0].check.expect.rel_l2: a number", None),
        (("require: FUNCTIONAL", "require: FUNCTIONL"),
         "`FUNCTIONL` is not what `require` can be",
         "falsification_tests[0].require: the status", "did you mean `FUNCTIONAL`?"),
        (("targets: [tiny]", "targets: [tinny]"),
         "unknown target `tinny`",
         "falsification_tests[1].targets[0]: one of big, tiny", "did you mean `tiny`?"),
        (("inputs: [ids]", "inputs: [idds]"),
         "unknown input `idds`",
         "falsification_tests[1].check.inputs[0]: one of ids, prompt", "did you mean `ids`?"),
        (("runs: 3", "runs: 1"),
         "`1` is not what `runs` can be",
         "falsification_tests[1].check.runs: a whole number, at least 2", None),
        (("{model: models/tiny}", "{modle: models/tiny}"),
         "unknown key `modle`",
         "targets.tiny.modle: one of", "did you mean `model`?"),
        (("{model: models/tiny}", "{device: cpu}"),
         "`model` is missing",
         "targets.tiny: `model`: a folder", "add `model:`"),
        (('"cuda:1"', "gpu"),
         "`gpu` is not what `device` can be",
         "targets.big.device: cpu, cuda, cuda:1 or auto", None),
        (("level: live", "level: lively"),
         "`lively` is not what `level` can be",
         "targets.big.level", "did you mean `live`?"),
        (("memory: 24GiB", "memory: 24"),
         "`memory` is a number (24)",
         "targets.big.memory: the memory it needs", None),
        (("engine: recorded", "engine: recoded"),
         "unknown engine `recoded`",
         "captures.control.engine: one of recorded, transformers", "did you mean `recorded`?"),
        (("bundle: a", "bundel: a"),
         "unknown key `bundel`",
         "captures.control.bundel: one of bundle", "did you mean `bundle`?"),
        (("dtype: bfloat16", "dtype: bf16"),
         "`bf16` is not what `dtype` can be",
         "captures.subject.dtype: one of bfloat16, float16, float32", "did you mean `bfloat16`?"),
        (('{text: "What is 2+2?"}', "{}"),
         "`prompt` is empty",
         "inputs.prompt: exactly one of", None),
        (('{text: "What is 2+2?"}', "{text: a, file: b}"),
         "`prompt` has `text`, `file` together",
         "inputs.prompt: exactly one of", None),
        (("[1, 2, 3]", "[1, no, 3]"),
         "`tokens` is a string (`no`)",
         "inputs.ids.tokens[1]: a token id", None),
        (("oracle: {engine", "ora cle: {engine"),
         "`ora cle` cannot be a name here",
         "captures.ora cle: a name", None),
        (("id: FALSIFY-TINY-002", "name: second"),
         "`id` is missing",
         "falsification_tests[1]: a key `id`", "add `id:`"),
        (("targets:\n  tiny", "target:\n  tiny"),
         "`FALSIFY-TINY-001` has a check but the contract has no targets",
         "target: `targets` at the top", "rename `target` to `targets`"),
        (("  require: FUNCTIONAL", "  requires: FUNCTIONAL"),
         "unknown key `requires`, which nothing reads",
         "falsification_tests[0].requires: `require`", "did you mean `require`?"),
        (("  check: {kind: d", "  chek: {kind: d"),
         "unknown key `chek`, which nothing reads",
         "falsification_tests[1].chek: `check`", "did you mean `check`?"),
        (("  targets: [tiny]", "  target: [tiny]"),
         "unknown key `target`, which nothing reads",
         "falsification_tests[1].target: `targets`", "did you mean `targets`?"),
        (("  targets: [tiny]", "  input: [ids]"),
         "unknown key `input`, which nothing reads",
         "falsification_tests[1].input: `inputs`", "did you mean `inputs`?"),
        (("inputs:\n  prompt", "input: {}\ninputs:\n  prompt"),
         "unknown key `input`, which nothing reads",
         "input: `inputs`", "did you mean `inputs`?"),
        (("  targets: [tiny]", "  discharge: {machine: 3}"),
         "unknown key `machine`",
         "falsification_tests[1].discharge.machine: one of machines, platforms",
         "did you mean `machines`?"),
        (("  targets: [tiny]", "  discharge: {machines: two}"),
         "`machines` is a string (`two`)",
         "falsification_tests[1].discharge.machines: how many machines", None),
        (("  targets: [tiny]", "  discharge: {repeats: 0}"),
         "`0` is not what `repeats` can be",
         "falsification_tests[1].discharge.repeats: how often", None),
        (("equations:", "equations: 3\nthe_equations:"),
         "`equations` is a number (3)",
         "equations: a mapping of names", None),
    ],
)  # fmt: skip
def test_one_mistake_is_one_exact_message(refused, change, what, at, remedy):
    error = refused(*change)
    assert not isinstance(error, ContractErrors), str(error)
    assert what == error.what
    assert error.expected.startswith(at)
    assert remedy == error.remedy


@pytest.mark.parametrize(
    "line", ["requires: [a GPU]", "given: x", "mutant_registry: []", "check_by_hand: weekly"]
)
def test_other_keys_are_left_alone(load, executable, line):
    load(executable.replace("  targets: [tiny]", f"  {line}"))


def test_prose_may_use_any_key(load):
    load("falsification_tests:\n- {id: A, chek: this, requires: PARTIAL, input: that}\n")


def test_the_line_is_that_of_the_wrong_value(load, executable):
    text = executable.replace("rel_l2: 1e-3", "rel_l2: small")
    with pytest.raises(ContractError) as caught:
        load(text)
    assert caught.value.line == 1 + text[: text.index("rel_l2: small")].count("\n")
    assert (
        str(caught.value)
        .splitlines()[0]
        .endswith(f"claims-v1.yaml:{caught.value.line}: `rel_l2` is a string (`small`)")
    )


def test_an_id_that_stands_twice_names_both_lines(refused):
    error = refused("FALSIFY-TINY-002", "FALSIFY-TINY-001")
    assert error.what == "falsifier id `FALSIFY-TINY-001` stands twice (lines 15 and 29)"
    assert error.line == 29


@pytest.mark.parametrize("name", ["FALSIFY A", "A::B", "A[0]", "-k", "A/B", "Ünique"])
def test_an_id_that_pytest_cannot_select_is_refused_with_one_that_it_can(refused, name):
    error = refused("FALSIFY-TINY-002", f"'{name}'")
    assert "cannot select" in error.what
    assert error.remedy.startswith("call it `")


def test_an_unselectable_id_without_a_check_is_left_to_lint(load):
    assert load("falsification_tests: [{id: 'A B', rule: x}]").falsifiers[0].id == "A B"


def test_a_check_without_any_targets_says_what_to_add(load):
    with pytest.raises(ContractError) as caught:
        load(
            "captures: {a: {engine: recorded}}\n"
            "falsification_tests:\n"
            "- {id: X, check: {kind: deterministic, subject: a}}\n"
            "- {id: Y, check: {kind: deterministic, subject: a}}\n"
        )
    assert caught.value.line == 3
    assert "targets: {tiny:" in caught.value.remedy


def test_several_mistakes_are_reported_together_in_the_order_of_the_file(load, executable):
    with pytest.raises(ContractErrors) as caught:
        load(executable.replace("parity", "partiy").replace("recorded", "recoded"))
    found = [each.what for each in caught.value.problems]
    assert found == ["unknown engine `recoded`", "unknown check kind `partiy`"]
    assert "recoded" in str(caught.value)
    assert "partiy" in str(caught.value)


@pytest.mark.parametrize("entry", ["3", "prose", "[a]", "null"])
def test_an_entry_that_is_not_a_mapping_is_refused(load, entry):
    with pytest.raises(ContractError) as caught:
        load(f"falsification_tests:\n- id: A\n- {entry}\n")
    assert caught.value.line == 3
    assert "falsification_tests[1]: a mapping with id" in caught.value.expected
