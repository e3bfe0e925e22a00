"""Texts to token ids, with a model's own tokenizer."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from pytest_falsify.errors import Blocked, CaptureError

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = "pip install 'pytest-falsify[hf]'"
AS_TOKENS = "give the input as `tokens: [...]`"


def encode(folder: Path, text: str) -> tuple[int, ...]:
    """Return the token ids of a text, as the tokenizer in a model's folder makes them.

    Raises:
        Blocked: when transformers is not installed.
        CaptureError: when the folder has no tokenizer, or one that makes nothing of a text.
    """
    if find_spec("transformers") is None:
        msg = "a text needs a tokenizer, and transformers is not installed"
        raise Blocked(msg, remedy=f"{INSTALL}, or {AS_TOKENS}")
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        msg = f"no tokenizer could be loaded: {error}"
        raise CaptureError(msg, path=folder, remedy=AS_TOKENS) from error
    tokens = tuple(tokenizer(text)["input_ids"])
    if text and not tokens:
        msg = "the tokenizer makes no tokens of a text: are its files in the folder?"
        raise CaptureError(msg, path=folder, remedy=f"{AS_TOKENS}, or mend the folder")
    return tokens
