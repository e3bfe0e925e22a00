from pathlib import Path

import pytest

from pytest_falsify.contracts.show import find, show
from pytest_falsify.contracts.starter import StarterCapture, starter


@pytest.fixture
def words(vocabulary):
    """The vocabulary of a starter: its stages and the checks that it shows."""
    from dataclasses import replace

    checks = {
        "parity": {"properties": {"subject": {}, "oracle": {}, "stages": {}, "layers": {}}},
        "unobserved": {"properties": {"subject": {}, "stages": {}}},
    }
    checks["parity"]["properties"]["expect"] = {"type": "object"}
    return replace(vocabulary, checks=checks, stage=str)


@pytest.mark.parametrize("model", ["models/tiny", "org/model: 7B #1", 'a "b" \\c', "ümläut"])
def test_a_starter_is_a_good_contract(tmp_path, words, model):
    from pytest_falsify.contracts.load import load_contract

    text = starter(
        model,
        subject=StarterCapture(options={"dtype": "bfloat16"}),
        oracle=StarterCapture(options={"dtype": "float32"}),
        file="contracts/my model-v1.yaml",
    )
    path = tmp_path / "starter.yaml"
    path.write_text(text)
    contract = load_contract(path, vocabulary=words)
    assert contract.targets["first"].model == model
    assert contract.captures["subject"].options == {"dtype": "bfloat16"}
    assert [each.id for each in contract.falsifiers] == [
        "FALSIFY-MY-MODEL-V1-001",
        "FALSIFY-MY-MODEL-V1-002",
    ]
    assert contract.notices == ()
    assert text.startswith("# yaml-language-server: $schema=")


def test_a_starter_is_clean_of_lint(tmp_path, words):
    from pytest_falsify.contracts.lint.run import lint
    from pytest_falsify.contracts.lint.sources import Sources

    path = tmp_path / "starter.yaml"
    path.write_text(
        starter(
            "m",
            subject=StarterCapture(options={"dtype": "bfloat16"}),
            oracle=StarterCapture(),
            file="starter.yaml",
        )
    )
    report = lint([path], vocabulary=words, sources=Sources(tmp_path))
    assert (report.contracts, report.findings) == (1, ())


def test_show_tells_all_about_an_executable_falsifier(load, executable):
    contract = load(executable)
    text = show(
        contract,
        contract.falsifiers[0],
        place="claims-v1.yaml:15",
        status="PARTIAL",
        because="held on tiny",
        bound_tests=["tests/test_a.py::test_b"],
    )
    assert text == (
        "FALSIFY-TINY-001  claims-v1.yaml:15\n"
        "  rule        they agree\n"
        "  prediction  within limits\n"
        "  if it fails look\n"
        "  binds to    same: y = x\n"
        "  target      tiny: models/tiny, cpu, algorithm\n"
        "              big: org/big, cuda:1, live, 24GiB\n"
        "  check       parity\n"
        "              subject: subject\n"
        "              oracle: oracle\n"
        '              noise: {"control": "control"}\n'
        "              stages: attn_norm, post_ffn_residual\n"
        "              layers: 0..2\n"
        '              expect: {"rel_l2": 0.001}\n'
        "  bound test  tests/test_a.py::test_b\n"
        "  requires    FUNCTIONAL\n"
        "  status      PARTIAL: held on tiny\n"
    )


def test_show_says_why_prose_cannot_be_run(load):
    contract = load("falsification_tests: [{id: A, rule: r, test: look at it, status: DISCHARGED}]")
    text = show(contract, contract.falsifiers[0], place="a.yaml:1")
    assert "  test        look at it\n              (it cannot be run: it is prose" in text
    assert "  claims      DISCHARGED\n  status      UNTRIED\n" in text


def test_an_id_may_stand_in_two_contracts(load, executable, tmp_path):
    contract = load(executable)
    assert list(find([contract], "FALSIFY-TINY-002")) == [str(tmp_path / "claims-v1.yaml")]
    assert find([contract], "FALSIFY-GONE") == {}


def test_the_example_of_the_documentation_is_a_good_contract(tmp_path, words):
    from pytest_falsify.contracts.load import load_contract

    page = Path(__file__).parents[3] / "docs" / "contracts.md"
    example = page.read_text().split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "example.yaml"
    path.write_text(example)
    assert load_contract(path, vocabulary=words).falsifiers[0].check.kind == "parity"
