import pytest

from pytest_falsify.contracts.shell_words import StringKind, judge_test


@pytest.mark.parametrize(
    "text",
    [
        "cargo test -p aprender-serve --lib falsify_moe",
        "apr check merged.apr --json | jq '.architecture'",
        "A=1 B=2 pytest -q tests/x",
        'N=$(wc -l < a.txt)\n[ "$N" = 3 ]',
        "scripts/validate.sh results/",
        "./run.sh",
        "python -m pytest \\\n  -k name",
        "# first\ncmake --build .\nctest",
        "make test",
        "diff a.txt b.txt",
        "test -f /etc/hosts",
        "grep -c 'a <b> c (d e)' file.txt",
        "for f in *.bin; do (cmp $f x/$f); done",
        "timeout 60 apr run m.gguf > out.txt 2>&1",
    ],
)  # fmt: skip
def test_commands_can_be_run(text):
    judged = judge_test(text)
    assert judged.kind is StringKind.COMMAND, judged
    assert not judged.why


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("proptest with random vectors including near-zero", StringKind.PROSE),
        ("Run 7B model with GPU — should fall back to CPU", StringKind.PROSE),
        ("Compare n_chunks=1 vs n_chunks=4 for vocab_size=65536", StringKind.PROSE),
        ("test that the sum of all weights is one", StringKind.PROSE),
        ("Set gate_weight = zeros([256, 2048]).", StringKind.PROSE),
        ("apr trace --payload <model> --out A", StringKind.PLACEHOLDER),
        ("pytest ... -k x", StringKind.PLACEHOLDER),
        ("cargo test -p TODO", StringKind.PLACEHOLDER),
        ("cargo test -p a --lib\nfalsify_ship_005_is_logic", StringKind.MIXED),
        ("grep -rn x src/\nExpect: 0 matches", StringKind.MIXED),
        ("cargo test -p apr-cli --lib tests (11/11 PASS)", StringKind.MIXED),
        ("F=10, N=3\nassert all is well", StringKind.PROSE),
        ("  \n", StringKind.EMPTY),
        ("", StringKind.EMPTY),
    ],
)
def test_what_a_shell_must_not_see_says_why(text, kind):
    judged = judge_test(text)
    assert judged.kind is kind, judged
    assert judged.why


@pytest.mark.parametrize(
    "text", ["tests/unit/test_a.py::test_b", "test_a.py::TestC::test_d[x-1]", "a/b.py::test_c"]
)
def test_pytest_node_ids_are_known(text):
    assert judge_test(text).kind is StringKind.NODE


@pytest.mark.parametrize(
    "text", ["test_token_batch_push_full", "autograd::ops::tests::test_softmax", "a::b"]
)
def test_names_of_functions_are_known(text):
    assert judge_test(text).kind is StringKind.NAME
