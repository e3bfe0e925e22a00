"""Those who do not use the plugin do not pay for it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "torch", "transformers", "numpy", "yaml", "jsonschema", "click", "safetensors", "filelock",
    "httpx2",
)  # fmt: skip
PROBE = """
import sys, pytest
plain = ["-p", "no:randomly", "-p", "no:hypothesispytest"]
pytest.main(["--collect-only", "-q", *plain, *sys.argv[1:]])
print("LOADED", *[each for each in {heavy!r} if each in sys.modules])
print("PLUGIN", "pytest_falsify._plugin" in sys.modules)
"""


def _probe(folder, *arguments):
    command = [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_without_falsify_nothing_heavy_is_imported(tmp_path):
    out = _probe(tmp_path)

    assert "PLUGIN True" in out
    assert out.splitlines()[-2] == "LOADED"


def test_the_probe_sees_what_falsify_imports(tmp_path):
    (tmp_path / "a.yaml").write_text("falsification_tests: []\n")

    assert "yaml" in _probe(tmp_path, "--falsify", ".").splitlines()[-2]


def test_collecting_falsifiers_imports_no_framework(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "targets: {here: {model: ./m}}\ncaptures: {a: {engine: transformers}}\n"
        "inputs: {p: {tokens: [1]}}\nfalsification_tests:\n"
        "- {id: FALSIFY-A-1, rule: r, check: {kind: deterministic, subject: a}}\n"
    )

    out = _probe(tmp_path, "--falsify", ".")

    assert "a.yaml::FALSIFY-A-1[here]" in out
    loaded = out.splitlines()[-2].split()
    assert "torch" not in loaded
    assert "transformers" not in loaded
