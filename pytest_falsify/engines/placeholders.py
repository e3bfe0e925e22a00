"""The words in braces of a command: what they stand for, and typing errors among them."""

from __future__ import annotations

import difflib
import re
import shlex
from typing import TYPE_CHECKING

from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACEHOLDERS = ("model", "tokens", "stages", "layers", "out")
_BRACED = re.compile(r"(?<!\$)\{([a-z_]+)\}")


def filled(command: str, values: Mapping[str, str]) -> str:
    """Return a command with its placeholders filled in, each as one word of the shell.

    Braces that are no placeholder are left alone: the shell and its tools use them too.
    """
    return _BRACED.sub(
        lambda match: shlex.quote(values[match[1]]) if match[1] in values else match[0], command
    )


def must_be_placeholders(command: str) -> None:
    """Refuse a word in braces that is nearly a placeholder.

    Raises:
        ContractError: with the one that was probably meant.
    """
    for word in _BRACED.findall(command):
        close = difflib.get_close_matches(word, PLACEHOLDERS, n=1, cutoff=0.7)
        if word not in PLACEHOLDERS and close:
            msg = f"`{{{word}}}` is no placeholder"
            listed = " ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            raise ContractError(
                msg, expected=f"one of {listed}", remedy=f"did you mean `{{{close[0]}}}`?"
            )


def mentions(command: str, placeholder: str) -> bool:
    """Tell whether a command has a placeholder."""
    return placeholder in _BRACED.findall(command)
