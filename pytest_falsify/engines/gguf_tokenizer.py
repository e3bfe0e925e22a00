"""The byte-level BPE tokenizer that a GGUF file carries, in the format of ``tokenizers``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_falsify.engines.gguf_file import GGUFFile

_CONTROL, _USER_DEFINED = 3, 4
"""``llama_token_type`` of tokens that are never split."""
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _digits_apart() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def _plain() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _by_pattern() -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


SPLITTERS: dict[str, Callable[[], Any]] = {
    "gpt-2": _plain,
    "qwen2": _by_pattern,
    "smollm": _digits_apart,
}
"""How a text is cut before merging, by ``tokenizer.ggml.pre``."""


def write_tokenizer(file: GGUFFile, folder: Path) -> bool:
    """Write ``tokenizer.json`` where the tokenizer is of a sort that is known, and tell so."""
    kind = file.value("tokenizer.ggml.model", "none")
    splitter = SPLITTERS.get(file.value("tokenizer.ggml.pre", "default"))
    if kind != "gpt2" or splitter is None:
        return False
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    tokens = file.value("tokenizer.ggml.tokens")
    merges = [tuple(each.split(" ")) for each in file.value("tokenizer.ggml.merges")]
    vocabulary = {each: id_ for id_, each in enumerate(tokens)}
    try:
        made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # `tokenizers` has no exception of its own
        msg = f"its tokenizer is broken: {error}"
        raise CaptureError(msg, path=file.path) from error
    made.pre_tokenizer = splitter()
    made.decoder = decoders.ByteLevel()
    kinds = file.value("tokenizer.ggml.token_type")
    whole = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    made.add_special_tokens([AddedToken(each, normalized=False) for each in whole])
    own = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED]
    made.add_tokens([AddedToken(each, normalized=False) for each in own])
    if file.has("tokenizer.ggml.add_bos_token") and file.value("tokenizer.ggml.add_bos_token"):
        first = file.value("tokenizer.ggml.bos_token_id")
        made.post_processor = processors.TemplateProcessing(
            single=f"{tokens[first]} $A", special_tokens=[(tokens[first], first)]
        )
    made.save(str(folder / "tokenizer.json"))
    return True
