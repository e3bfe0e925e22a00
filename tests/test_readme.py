"""The README's commands run, and what it shows is what they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```console\n\$ (.*)\n((?:.*\n)*?)```", README)
NUMBER = re.compile(r"\d(?:\.\d+)?e[-+]\d+|\b\d\.\d+\b")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What a stranger has, without the environment."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("contracts", "evidence", "examples", "fixtures"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[each[0] for each in SHOWN])
def test_a_command_prints_what_the_readme_shows(clone, command, shown):
    program, *arguments = command.split()
    assert program == "pytest"

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", *arguments],
        cwd=clone, capture_output=True, text=True, check=False,
        env={key: value for key, value in os.environ.items() if key != "CI"},
    )  # fmt: skip

    printed = _without_numbers(done.stdout)
    assert [line for line in _without_numbers(shown).splitlines() if line not in printed] == []


def _without_numbers(text):
    """The last digits differ between processors; the table must not."""
    return re.sub(r" +", " ", NUMBER.sub("#", text))


def test_every_block_that_looks_like_output_is_checked():
    assert len(SHOWN) == README.count("```console")
    assert len(SHOWN) >= 2


@pytest.mark.parametrize("target", re.findall(r"^make (\w+) ", README, re.MULTILINE))
def test_every_make_target_exists(target):
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make here")
    done = subprocess.run(
        [make, "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)

    assert [each for each in links if not (ROOT / each).exists()] == []


def test_the_contract_that_it_shows_is_one(tmp_path):
    from pytest_falsify._loading import load

    text = re.search(r"```yaml\n((?:.*\n)*?)```", README)
    path = tmp_path / "mine.yaml"
    path.write_text(text[1], encoding="utf-8")

    contract = load(path)

    assert [each.id for each in contract.falsifiers] == ["FALSIFY-MINE-001"]


def test_the_options_that_it_names_exist():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True
    )

    named = set(re.findall(r"--falsify[a-z-]*", README))
    assert named
    assert [each for each in named if each not in done.stdout] == []


def test_the_commands_that_it_names_exist():
    from pytest_falsify.cli import main

    named = set(re.findall(r"pytest-falsify ([a-z][a-z-]+)", README))

    assert len(named) > 8
    assert named <= set(main.commands)
