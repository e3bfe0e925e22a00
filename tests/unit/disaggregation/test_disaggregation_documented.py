"""The broken transfer that the documentation shows is found as it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_falsify.cli import main

pytest.importorskip("transformers")
ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "disaggregation.md").read_text(encoding="utf-8")


def fenced(start):
    """Return the block of the documentation that begins so."""
    (block,) = re.findall(rf"```\w*\n({re.escape(start)}.*?)```", TEXT, re.DOTALL)
    return block


def without_figures(text):
    """Return words only: the last digits are the machine's."""
    return re.sub(r"\d[\d.e-]*", "#", " ".join(text.split()))


def test_the_trace_of_the_broken_transfer_is_what_is_shown(tmp_path, monkeypatch):
    (tmp_path / "transfers.py").write_text(fenced("# transfers.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    shown = fenced("$ pytest-falsify trace").replace("\\\n", " ")
    command, expected = shown.split("\n", 1)
    arguments = shlex.split(command.removeprefix("$ pytest-falsify "))

    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 1, result.output
    assert without_figures(result.output) == without_figures(expected)
    assert "transfer/2/k_cache: head 0, position 4" in result.output
