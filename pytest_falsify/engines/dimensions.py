"""How large the stages of a model are, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import parse_json
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OF_HIDDEN = frozenset(
    {
        "embedding",
        "attn_norm",
        "attn_out",
        "post_attn_residual",
        "ffn_norm",
        "ffn_out",
        "moe_ffn_out",
        "post_ffn_residual",
        "final_norm",
    }
)
_OF_INNER = frozenset({"ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl"})
_OF_FUSED = frozenset({"qkv_matmul", "qkv_bias"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The sizes of a dense decoder.

    Attributes:
        layers: decoder layers.
        hidden: the width of the residual stream.
        heads: query heads.
        key_heads: key and value heads.
        head: channels of one head.
        inner: the width inside the feed-forward block.
        vocabulary: token ids.
    """

    layers: int
    hidden: int
    heads: int
    key_heads: int
    head: int
    inner: int
    vocabulary: int

    @classmethod
    def of_config(cls, config: Mapping[str, Any], path: Path) -> Dimensions:
        """Return the sizes that a configuration of transformers states.

        Raises:
            CaptureError: when it lacks one.
        """
        config = config.get("text_config", config)
        try:
            heads = config["num_attention_heads"]
            return cls(
                layers=config["num_hidden_layers"],
                hidden=config["hidden_size"],
                heads=heads,
                key_heads=config.get("num_key_value_heads") or heads,
                head=config.get("head_dim") or config["hidden_size"] // heads,
                inner=config["intermediate_size"],
                vocabulary=config["vocab_size"],
            )
        except KeyError as error:
            msg = f"the configuration has no `{error.args[0]}`"
            raise CaptureError(msg, path=path, expected="a decoder's config.json") from error

    @classmethod
    def of_folder(cls, folder: Path) -> Dimensions:
        """Return the sizes that a model's ``config.json`` states.

        Raises:
            CaptureError: when there is none, or it lacks a size.
        """
        path = folder / "config.json"
        try:
            config = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"the configuration cannot be read: {error}"
            raise CaptureError(msg, path=path, expected="a model's config.json") from error
        return cls.of_config(config, path)

    def shape(self, stage: str, tokens: int) -> tuple[int, ...] | None:
        """Return the shape of a stage of a prefill in the stage's own dims; None: not known."""
        if stage in _OF_HIDDEN:
            return tokens, self.hidden
        if stage in _OF_INNER:
            return tokens, self.inner
        if stage in _OF_FUSED:
            return tokens, (self.heads + 2 * self.key_heads) * self.head
        lengths = {"t": tokens, "s": tokens, "h": self.heads, "k": self.key_heads, "d": self.head}
        if stage == "attention":
            return tokens, self.heads * self.head
        names = STAGES[stage].dims.split()
        lengths["v"] = self.vocabulary
        return tuple(lengths[name] for name in names) if "e" not in names else None
