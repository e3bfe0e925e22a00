"""Texts to token ids, with a model's own tokenizer."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import Blocked, CaptureError

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = "pip install 'pytest-falsify[hf]'"
AS_TOKENS = "give the input as `tokens: [...]`"


FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.tiktoken",
    "spiece.model",
)
"""What a tokenizer is made of, as save_pretrained and the tokenizers of the hub name it."""


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of the tokenizer in a model's folder, in order; they may be none."""
    found = {each for pattern in FILES for each in folder.glob(pattern) if each.is_file()}
    return tuple(sorted(found))


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a file that a tokenizer is made of does."""
    config = folder / "config.json"
    files = [*tokenizer_files(folder), *([config] if config.is_file() else [])]
    stats = [(each.name, each.stat()) for each in files]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


@lru_cache(maxsize=4)
def _tokenizer(folder: Path, _stamps: tuple[tuple[str, int, int], ...]) -> Any:
    """Load a tokenizer once for many texts: that takes longer than most texts do."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        msg = f"no tokenizer could be loaded: {error}"
        raise CaptureError(msg, path=folder, remedy=AS_TOKENS) from error


def encode(folder: Path, text: str) -> tuple[int, ...]:
    """Return the token ids of a text, as the tokenizer in a model's folder makes them.

    Raises:
        Blocked: when transformers is not installed.
        CaptureError: when the folder has no tokenizer, or one that makes nothing of a text.
    """
    if find_spec("transformers") is None:
        msg = "a text needs a tokenizer, and transformers is not installed"
        raise Blocked(msg, remedy=f"{INSTALL}, or {AS_TOKENS}")
    tokenizer = _tokenizer(folder, _stamps(folder))
    tokens = tuple(tokenizer(text)["input_ids"])
    if text and not tokens:
        msg = "the tokenizer makes no tokens of a text: are its files in the folder?"
        raise CaptureError(msg, path=folder, remedy=f"{AS_TOKENS}, or mend the folder")
    return tokens
