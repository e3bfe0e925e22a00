"""Activations rounded to 8 bits before each product, as engines with quantised weights do it.

ggml multiplies quantised weights by activations that it first rounds in blocks of 32: one scale in
float16, the largest magnitude divided by 127, and 32 whole numbers (``quantize_row_q8_0`` and
``quantize_row_q8_1`` in ggml-quants.c). A model of transformers whose linear modules get what is
left of their input after that computes what such an engine computes, when it does so rightly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    import torch

BLOCK = 32
LARGEST = 127
Q8 = "q8"


def round_activations(model: torch.nn.Module) -> None:
    """Let every linear module of a model see its input rounded, from now on and in its copies.

    Raises:
        CaptureError: when a module's input cannot be cut into blocks.
    """
    import torch

    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        if module.in_features % BLOCK:
            msg = f"the {module.in_features} inputs of {name} make no blocks of {BLOCK}"
            raise CaptureError(msg, expected=f"a multiple of {BLOCK}")
        module.register_forward_pre_hook(_round_input)


def _round_input(_module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *others = arguments
    return (rounded(first), *others)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Return values as ggml's 8-bit blocks keep them, in the dtype that they came in.

    Args:
        values: (..., channels), a multiple of ``BLOCK`` channels.
    """
    import torch

    blocks = values.float().unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(dim=-1, keepdim=True) / LARGEST
    inverse = torch.where(scale > 0, 1 / scale, torch.zeros_like(scale))
    whole = _half_away(blocks * inverse)
    kept: torch.Tensor = (whole * scale.half().float()).flatten(-2).to(values.dtype)
    return kept


def _half_away(values: torch.Tensor) -> torch.Tensor:
    """Round to the nearest whole number, halves away from nought, as C's ``roundf`` does."""
    import torch

    return torch.sign(values) * torch.floor(values.abs() + 0.5)
