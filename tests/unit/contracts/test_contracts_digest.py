import pytest

from pytest_falsify.contracts.digest import entry_digest


@pytest.fixture
def digest(load):
    """Return the digest of the first falsifier of a text."""

    def of(text, position=0):
        contract = load(text)
        return entry_digest(contract, contract.falsifiers[position])

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rule: they agree", "rule: they agree, more or less"),
        ("FALSIFY-TINY-001", "FALSIFY-OTHER-001"),
        ("FALSIFY-TINY-002", "FALSIFY-OTHER-002"),
        ("metadata:", "# a comment\n\n\nmetadata:"),
        ("require: FUNCTIONAL", "require: PARTIAL"),
        ("layer_output", "post_ffn_residual"),
        ("[attn_norm, layer_output]", "[layer_output, attn_norm, attn_norm]"),
        ("layers: 0..2", "layers: [1, 0]"),
        ("    layers: 0..2\n", "    layers: 0..2\n    steps: 0\n"),
        ("engine: transformers, dtype: float32", "engine: transformers"),
        ("engine: transformers, dtype: float32", "dtype: float32, engine: transformers"),
        ("model: models/tiny", "model: models/tiny-2"),
        ("runs: 3", "runs: 4"),
        ("layers: 0..2", "inputs: [ids, prompt]\n    layers: 0..2"),
        ("rel_l2: 1e-3", "rel_l2: 0.001"),
    ],
)
def test_what_does_not_change_the_meaning_does_not_change_the_digest(digest, executable, old, new):
    assert old in executable
    assert digest(executable) == digest(executable.replace(old, new, 1))


def test_the_name_of_a_capture_does_not_count(digest, executable):
    assert digest(executable) == digest(
        executable.replace("oracle", "reference").replace(
            "reference: reference", "oracle: reference"
        )
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rel_l2: 1e-3", "rel_l2: 1e-2"),
        ("kind: parity", "kind: deterministic"),
        ("[attn_norm, layer_output]", "[attn_norm]"),
        ("layers: 0..2", "layers: 0..3"),
        ("layers: 0..2", "layers: all"),
        ("    layers: 0..2\n", "    layers: 0..2\n    steps: 1\n"),
        ("engine: transformers, dtype: float32", "engine: transformers, dtype: float16"),
        ("bundle: a", "bundle: b"),
        ("What is 2+2?", "What is 2+3?"),
        ("tokens: [1, 2, 3]", "tokens: [1, 2]"),
        ("layers: 0..2", "inputs: [ids]\n    layers: 0..2"),
        ("    noise: {control: control}\n", ""),
        ("subject: subject\n    oracle: oracle", "subject: oracle\n    oracle: subject"),
        ("require: FUNCTIONAL", "discharge: {machines: 3}"),
    ],
)
def test_what_changes_the_meaning_changes_the_digest(digest, executable, old, new):
    assert old in executable
    changed = executable.replace(old, new, 1)
    if "deterministic" in new:
        changed = changed.replace("    expect: {rel_l2: 1e-3}\n", "", 1)
        executable = executable.replace("    expect: {rel_l2: 1e-3}\n", "", 1)
    assert digest(executable) != digest(changed)


def test_digests_of_two_falsifiers_differ(digest, executable):
    assert digest(executable, 0) != digest(executable, 1)


def test_without_a_check_the_test_string_counts(digest):
    text = "falsification_tests: [{id: A, rule: x, test: run me}]"
    assert digest(text) == digest(text.replace("rule: x", "rule: y"))
    assert digest(text) != digest(text.replace("run me", "run you"))
