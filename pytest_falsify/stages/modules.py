"""The stages of a model of an unknown family: what its modules put out, in the order they end."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.adapter import Family, Tap
from pytest_falsify.stages.vocabulary import MODULE

_LENGTHS = (3, 5)
"""Two unusual numbers of tokens: an axis that has both is the axis of the tokens."""


class NotFollowedError(CaptureError):
    """A model cannot be followed on its way, so that the order of its modules is not known."""


def module_family(model: Any) -> Family:
    """Return a family that has a stage for every module which shows all tokens once a pass.

    The model runs twice on a few tokens to find out. What its output embedding shows is
    ``lm_head``; no other canonical stage can be told from the outside.

    Raises:
        NotFollowedError: when the model does not run, as it is, on a few tokens.
    """
    first, second = (_shown(model, length) for length in _LENGTHS)
    output = model.get_output_embeddings()
    taps = {
        "lm_head" if model.get_submodule(name) is output else MODULE + name: Tap(name, packs=True)
        for name in first
        if name in second
    }
    return Family(model_types=(model.config.model_type,), taps=taps, ways={}, attention="")


def _shown(model: Any, length: int) -> list[str]:
    """Return the modules that put out a row for each token, once, in the order they end."""
    import torch

    found: dict[str, list[bool]] = {}

    def note(name: str, _module: Any, _arguments: Any, output: Any) -> None:
        found.setdefault(name, []).append(_has_rows(output, length))

    tokens = torch.zeros((1, length), dtype=torch.long, device=model.device)
    with ExitStack() as stack, torch.inference_mode():
        for name, module in model.named_modules():
            if name:
                hook = module.register_forward_hook(partial(note, name))
                stack.callback(hook.remove)
        _run(model, tokens)
    return [name for name, calls in found.items() if calls == [True]]


def _run(model: Any, tokens: Any) -> None:
    try:
        # With a cache the mask asks nothing of the values: a model without weights runs too.
        model(input_ids=tokens, use_cache=True)
    except (RuntimeError, TypeError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"a `{model.config.model_type}` does not run on {tokens.shape[1]} tokens: {first}"
        raise NotFollowedError(
            msg, expected="a causal language model that takes `input_ids`"
        ) from error


def _has_rows(output: Any, length: int) -> bool:
    shown = output[0] if isinstance(output, tuple) and output else output
    shape = getattr(shown, "shape", ())
    is_real: bool = len(shape) > 2 and shape[:2] == (1, length)  # noqa: PLR2004 - batch, tokens
    return is_real and shown.is_floating_point()
