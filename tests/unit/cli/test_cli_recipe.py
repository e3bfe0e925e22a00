"""The recipe for CI says only what is there."""

from __future__ import annotations

import re

import pytest
import yaml

from pytest_falsify.cli import main

RECIPES = [".github/workflows/falsify.yml", "docs/ci.md"]


def _jobs(root):
    return yaml.safe_load((root / RECIPES[0]).read_text())["jobs"]


def _plugin_options(root):
    return set(
        re.findall(r'"(--falsify[a-z-]*)"', (root / "pytest_falsify/_plugin.py").read_text())
    )


@pytest.mark.parametrize("name", RECIPES)
def test_commands_and_their_options_exist(root, name):
    text = (root / name).read_text()
    found = re.findall(r"pytest-falsify ([a-z][a-z-]+)([^|\n`]*)", text)

    assert {command for command, _ in found} >= {"merge", "diff", "gate"}
    for command, arguments in found:
        options = {each for param in main.commands[command].params for each in param.opts}
        assert set(re.findall(r"--[a-z-]+", arguments)) <= options


@pytest.mark.parametrize("name", RECIPES)
def test_options_of_the_plugin_exist(root, name):
    found = set(re.findall(r"--falsify-[a-z-]+", (root / name).read_text()))

    assert found
    assert found <= _plugin_options(root)


def test_actions_are_pinned_to_a_version_and_no_secret_is_used(root):
    text = (root / RECIPES[0]).read_text()
    used = re.findall(r"uses: (\S+)", text)

    assert used
    assert [each for each in used if not re.search(r"@v\d+\.\d+\.\d+$", each)] == []
    assert "secrets." not in text


def test_records_are_uploaded_from_a_hidden_folder_whatever_happened(root):
    steps = [step for name in ("cpu", "gpu") for step in _jobs(root)[name]["steps"]]
    uploads = [step for step in steps if "upload-artifact" in step.get("uses", "")]

    assert len(uploads) == 2
    for step in uploads:
        assert step["if"] == "always()"
        assert step["with"]["include-hidden-files"] is True
