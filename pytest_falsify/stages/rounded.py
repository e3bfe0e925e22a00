"""Weights rounded as lower precisions and common quantisations round them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

GROUP = 32
INSIDE = ".layers."
SCHEMES = (
    "bfloat16",
    "float16",
    "float8_e4m3fn",
    "int8 rows",
    "int8 groups",
    "int4 groups",
    "int4 rows",
)
"""A dtype of torch, or symmetric integers with one scale a row, or a group of ``GROUP`` values."""


def rounded(weight: torch.Tensor, scheme: str) -> torch.Tensor:
    """Return a weight rounded and brought back to its dtype.

    Args:
        weight: (..., channels).
        scheme: one of ``SCHEMES``.
    """
    import torch

    if " " not in scheme:
        return weight.to(getattr(torch, scheme)).to(weight.dtype)
    kind, unit = scheme.split()
    largest = 2 ** (int(kind.removeprefix("int")) - 1) - 1
    size = weight.shape[-1]
    group = GROUP if unit == "groups" and size % GROUP == 0 else size
    grouped = weight.float().reshape(-1, group)
    scale = grouped.abs().amax(dim=-1, keepdim=True) / largest
    whole = torch.round(grouped / torch.where(scale > 0, scale, torch.ones_like(scale)))
    found: torch.Tensor = (whole * scale).reshape(weight.shape).to(weight.dtype)
    return found


def round_matrices(model: Any, scheme: str) -> None:
    """Round every matrix inside a model's layers, in place; what lies outside them stays.

    Args:
        model: a causal language model of transformers.
        scheme: one of ``SCHEMES``.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and INSIDE in name:
                parameter.copy_(rounded(parameter, scheme))
