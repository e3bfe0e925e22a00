"""A folder of weights and configuration, as transformers reads it."""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.family import family_of
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


_OF_TEXT_DECODER = {
    r"^(language_model\.model|model\.language_model)\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
"""How a multimodal checkpoint names what its text decoder, loaded alone, calls otherwise."""


def load_model(folder: Path, settings: Mapping[str, Any], device: str) -> Any:
    """Return the causal language model of a folder, without its remote code.

    Of a multimodal model whose text decoder is of a known family it is that decoder.

    Args:
        folder: with a configuration and weights.
        settings: ``dtype``, ``attention``, and overrides of the configuration, ``config``.
        device: where it runs.

    Raises:
        CaptureError: when transformers cannot load it, or a weight is absent.
    """
    import torch
    import transformers

    with _quiet(transformers), _explained(folder):
        config, renamed = _config(transformers, folder)
        _override(config, settings["config"])
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, settings["dtype"]),
            attn_implementation=settings["attention"],
            local_files_only=True,
            trust_remote_code=False,
            key_mapping=renamed,
            output_loading_info=True,
        )
    absent = sorted(loaded["missing_keys"]) + sorted(map(str, loaded["mismatched_keys"]))
    if absent:
        tensors = number_of(len(absent), "tensor")
        msg = f"the weights lack {tensors} that the model needs, first {absent[0]}"
        raise CaptureError(
            msg, path=folder, expected="every parameter in the safetensors files, in its shape"
        )
    return model.eval().to(device)


def skeleton(folder: Path, attention: str) -> Any:
    """Return the model that a folder's configuration describes, with shapes and without weights.

    Raises:
        CaptureError: when transformers knows no such model.
    """
    import torch
    import transformers

    with _quiet(transformers), _explained(folder):
        config, _ = _config(transformers, folder)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                config, attn_implementation=attention, trust_remote_code=False
            )
    return model.eval()


def _config(transformers: Any, folder: Path) -> tuple[Any, dict[str, str] | None]:
    """Return a model's configuration, or that of a known text decoder in it and its names there."""
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    text = config.get_text_config()
    is_inside = family_of(config.model_type) is None and family_of(text.model_type) is not None
    return (text, _OF_TEXT_DECODER) if is_inside else (config, None)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say in one sentence what transformers says in a hundred lines."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "attn_implementation" in first:
            msg = f"transformers cannot load this model: {first.partition('. ')[0]}"
            remedy = "capture with `attention: eager`"
            raise CaptureError(msg, path=folder, remedy=remedy) from error
        msg = f"transformers cannot load this model: {first}"
        raise CaptureError(
            msg, path=folder, expected="a folder as save_pretrained writes it"
        ) from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    was_shown = logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what is missing is our own error, told once
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_shown:
            logging.enable_progress_bar()


def _override(config: Any, overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if not hasattr(config, key):
            close = difflib.get_close_matches(key, vars(config), n=1)
            msg = f"`config.{key}` is not a setting of {type(config).__name__}"
            raise CaptureError(msg, remedy=f"did you mean `{close[0]}`?" if close else None)
        old = getattr(config, key)
        merged = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        setattr(config, key, merged)
