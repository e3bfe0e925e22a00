"""The faults of the bench: other operations in the place of right ones, as engines have had them.

A fault names the stages whose operations it replaces: those are the guilty sites, and nothing else
in the bench knows where they are. ``names`` are the words in the table of known faults that name it
rightly; a fault without any is not in that table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from localize_subject import (
    Here,
    allowed,
    angles,
    base_of,
    family_of,
    key_heads,
    keys,
    masked_softmax,
    mixed,
    multiply,
    normed,
    queries,
    repeated,
    rotated,
    scale_of,
    scores,
    split,
    value_heads,
)

from pytest_falsify.stages.rounded import rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from localize_subject import Operation, Tensor

    Operations = Mapping[str, Operation]
    Make = Callable[["Choice"], Operations | None]

LINEAR = {
    "attn_out": ("self_attn.o_proj", "attention"),
    "ffn_gate": ("mlp.gate_proj", "ffn_norm"),
    "ffn_up": ("mlp.up_proj", "ffn_norm"),
    "ffn_out": ("mlp.down_proj", "ffn_swigl"),
}
MASKED = "attn_softmax"


class Absent(LookupError):
    """The fault cannot be in this family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where and in what a fault is made.

    Attributes:
        config: of the model.
        layer: the layer it is in.
        stages: of the subject.
        operations: the right ones.
        random: decides what the fault leaves open.
        products: of the stages of ``LINEAR`` those that a matrix product alone makes.
    """

    config: Any
    layer: int
    stages: tuple[str, ...]
    operations: Mapping[str, Operation]
    random: np.random.Generator
    products: tuple[str, ...] = ()

    def one_of(self, *names: str) -> str:
        """Return one of some stages that the subject has.

        Raises:
            Absent: when it has none of them.
        """
        found = [each for each in names if each in self.stages]
        if not found:
            raise Absent
        return str(self.random.choice(found))

    def linear(self, *others: str) -> str:
        """Return one of the stages that a matrix product alone makes, or of some others."""
        return self.one_of(*self.products, *others)

    def size(self, smallest: float, largest: float) -> float:
        """Return a size drawn from 10^smallest to 10^largest, as many in each decade."""
        return float(10 ** self.random.uniform(smallest, largest))

    def after(self, stage: str, change: Callable[[Tensor], Tensor]) -> Operations:
        """Return a stage's right operation with something done to its result."""
        right = self.operations[stage]
        return {stage: lambda here: change(right(here))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault.

    Attributes:
        make: the operations of a choice, or None where the fault cannot be.
        names: what the table of known faults may call it; empty: it is not in the table.
        outside: it stands outside the layers.
    """

    name: str
    make: Make
    names: tuple[str, ...] = ()
    outside: bool = False


def _of_heads(choice: Choice, turned: Callable[[Here, Tensor], Tensor]) -> Operations:
    """Return the faulty rotation of queries, of keys, or of both."""
    if getattr(choice.config, "rope_parameters", None) is None:
        raise Absent
    both: Operations = {
        "q_post_rope": lambda here: turned(here, queries(here)),
        "k_post_rope": lambda here: turned(here, keys(here)),
    }
    wanted = choice.random.choice(["q_post_rope", "k_post_rope", "both"])
    return both if wanted == "both" else {wanted: both[wanted]}


def _rope_layout(choice: Choice) -> Operations:
    return _of_heads(choice, lambda here, given: rotated(here, given, interleaved=True))


def _rope_base(choice: Choice) -> Operations:
    base = float(choice.random.choice([1e4, 1e5, 5e5, 1e6]))

    def turned(here: Here, given: Tensor) -> Tensor:
        own = base if base != base_of(here) else base * 10
        return rotated(here, given, angles(here, base=own))

    return _of_heads(choice, turned)


def _rope_position(choice: Choice) -> Operations:
    offset = int(choice.random.choice([1, -1]))
    return _of_heads(choice, lambda here, given: rotated(here, given, angles(here, offset=offset)))


def _any_rope_base(choice: Choice) -> Operations:
    """Draw a base of two digits between 20 and 10^8, which is hardly ever one that is usual."""
    base = float(f"{choice.size(1.3, 8):.1e}")
    return _of_heads(choice, lambda here, given: rotated(here, given, angles(here, base=base)))


def _any_rope_position(choice: Choice) -> Operations:
    offset = int(choice.random.integers(3, 500)) * int(choice.random.choice([1, -1]))
    return _of_heads(choice, lambda here, given: rotated(here, given, angles(here, offset=offset)))


def _any_rope_scaling(choice: Choice) -> Operations:
    factor = round(float(choice.random.uniform(1.2, 20)), 1)
    return _of_heads(choice, lambda here, given: rotated(here, given, angles(here) / factor))


def _rope_missing(choice: Choice) -> Operations:
    return _of_heads(choice, lambda _here, given: given)


def _rope_scaling(choice: Choice) -> Operations:
    factor = float(choice.random.choice([2, 4, 8]))
    return _of_heads(choice, lambda here, given: rotated(here, given, angles(here) / factor))


def _head_order(choice: Choice) -> Operations:
    stage = choice.one_of("q_post_rope", "k_post_rope")
    return choice.after(stage, lambda value: value.flip(1))


def _grouped_heads(choice: Choice) -> Operations:
    """Lay the heads out group by group where they belong to key heads in turn."""
    keys_of = key_heads(choice.config)

    def turned(value: Tensor) -> Tensor:
        return value.unflatten(1, (keys_of, -1)).transpose(1, 2).flatten(1, 2)

    return choice.after("q_post_rope", turned)


def _gqa(choice: Choice) -> Operations:
    of_scores: Operation = lambda here: scores(  # noqa: E731
        here,
        here.values["q_post_rope"].transpose(0, 1),
        repeated(here, here.values["k_post_rope"], tiled=True),
    )
    of_values: Operation = lambda here: mixed(  # noqa: E731
        here, here.values[MASKED], repeated(here, value_heads(here), tiled=True)
    )
    both = {"attn_scores": of_scores, "attention": of_values}
    wanted = choice.random.choice([*both, "both"])
    return both if wanted == "both" else {wanted: both[wanted]}


def _qkv_order(choice: Choice) -> Operations:
    stage = choice.one_of("qkv_bias", "qkv_matmul")
    right = choice.operations[stage]
    order = choice.random.choice([[0, 2, 1], [1, 0, 2], [2, 1, 0], [1, 2, 0]])

    def exchanged(here: Here) -> Tensor:
        parts = split(here, right(here))
        return torch.cat([parts[each] for each in order], -1)

    return {stage: exchanged}


def _transposed_weight(choice: Choice) -> Operations:
    stage = choice.linear()
    name, given = LINEAR[stage]

    def computed(here: Here) -> Tensor:
        weight = here.weight(name)
        return multiply(here, here.values[given], weight.T.contiguous().view(weight.shape))

    return {stage: computed}


def _merged_heads(choice: Choice) -> Operations:
    """Forget to bring the tokens before the heads when heads are merged."""
    right = choice.operations["attention"]

    def merged(here: Here) -> Tensor:
        value = right(here)
        by_head = value.unflatten(-1, (-1, here.head_dim)).transpose(0, 1)
        return by_head.contiguous().view(value.shape)

    return {"attention": merged}


def _token_shift(choice: Choice) -> Operations:
    stage = choice.one_of("attn_norm", "attention", "ffn_norm", "ffn_out", "attn_out")
    return choice.after(stage, lambda value: value.roll(1, 0))


def _bos(choice: Choice) -> Operations:
    """Put another token before all and lose the last one."""
    bos = int(choice.random.integers(choice.config.vocab_size))

    def embedded(here: Here) -> Tensor:
        right = choice.operations["embedding"]
        fed = (bos, *here.tokens[:-1])
        return right(Here(engine=here.engine, layer=None, values={}, tokens=fed))

    return {"embedding": embedded}


def _token_lost(choice: Choice) -> Operations:
    """Feed every token one place late: the first one stands twice."""

    def embedded(here: Here) -> Tensor:
        fed = (here.tokens[0], *here.tokens[:-1])
        return choice.operations["embedding"](
            Here(engine=here.engine, layer=None, values={}, tokens=fed)
        )

    return {"embedding": embedded}


def _padding(_choice: Choice) -> Operations:
    def computed(here: Here) -> Tensor:
        seen = allowed(here)
        seen[1:, 0] = False
        return masked_softmax(here.values["attn_scores"], seen)

    return {MASKED: computed}


def _scale(choice: Choice) -> Operations:
    stage = choice.one_of("attn_norm", "attn_out", "ffn_norm", "ffn_up", "ffn_out")
    factor = 1 + choice.size(-7, 0)
    return choice.after(stage, lambda value: value * factor)


def _embedding_scale(choice: Choice) -> Operations:
    """Apply Gemma's scale of embeddings twice, or where there is none."""
    return choice.after("embedding", lambda value: value * choice.config.hidden_size**0.5)


def _score_scale(_choice: Choice) -> Operations:
    """Forget the square root in 1 / sqrt(d)."""
    return {
        "attn_scores": lambda here: scores(
            here,
            here.values["q_post_rope"].transpose(0, 1),
            repeated(here, here.values["k_post_rope"]),
            scale=scale_of(here) ** 2,
        )
    }


def _offset(choice: Choice) -> Operations:
    stage = choice.one_of("attn_out", "ffn_up", "ffn_out", "ffn_gate", "post_ffn_residual")
    part = choice.size(-6, 0)
    return choice.after(stage, lambda value: value + part * value.float().std().to(value.dtype))


def _norm_of(choice: Choice) -> tuple[str, str, str]:
    if not hasattr(choice.config, "rms_norm_eps"):
        raise Absent
    stage = choice.one_of("attn_norm", "ffn_norm")
    if stage == "attn_norm":
        return stage, "input_layernorm", "layer_input"
    is_gemma = "attn_post_norm" in choice.stages
    name = "pre_feedforward_layernorm" if is_gemma else "post_attention_layernorm"
    return stage, name, "post_attn_residual"


def _norm_weight(choice: Choice) -> Operations:
    stage, name, given = _norm_of(choice)
    return {
        stage: lambda here: normed(
            here, here.values[given], here.weight(name), plus=1.0 - family_of(here).plus
        )
    }


def _norm_epsilon(choice: Choice) -> Operations:
    stage, name, given = _norm_of(choice)
    epsilon = float(choice.random.choice([1e-3, 1e-4, 1e-5]))

    def computed(here: Here) -> Tensor:
        own = epsilon if epsilon != here.config.rms_norm_eps else 1e-3
        return normed(here, here.values[given], here.weight(name), epsilon=own)

    return {stage: computed}


def _any_norm_epsilon(choice: Choice) -> Operations:
    stage, name, given = _norm_of(choice)
    epsilon = float(f"{choice.size(-5, -1):.1e}")
    return {
        stage: lambda here: normed(here, here.values[given], here.weight(name), epsilon=epsilon)
    }


def _norm_mean(choice: Choice) -> Operations:
    stage, name, given = _norm_of(choice)

    def computed(here: Here) -> Tensor:
        value = here.values[given]
        return normed(here, value - value.mean(-1, keepdim=True), here.weight(name))

    return {stage: computed}


def _bias(choice: Choice) -> Operations | None:
    return (
        {"qkv_bias": lambda here: here.values["qkv_matmul"]}
        if "qkv_bias" in choice.stages
        else None
    )


def _soft_cap(choice: Choice) -> Operations:
    cap = float(choice.random.choice([30.0, 50.0]))
    return choice.after("attn_scores", lambda value: torch.tanh(value / cap) * cap)


def _residual(choice: Choice) -> Operations:
    stage = choice.one_of("post_attn_residual", "post_ffn_residual")
    stream = {"post_attn_residual": "layer_input", "post_ffn_residual": "post_attn_residual"}[stage]
    right = choice.operations[stage]
    is_stream = bool(choice.random.integers(2))

    def computed(here: Here) -> Tensor:
        return right(here) - here.values[stream] if is_stream else here.values[stream]

    return {stage: computed}


def _mask(choice: Choice) -> Operations:
    sees_more = bool(choice.random.integers(2))

    def computed(here: Here) -> Tensor:
        seen = allowed(here, later=1) if sees_more else allowed(here, later=-1)
        seen[0, 0] = True
        return masked_softmax(here.values["attn_scores"], seen)

    return {MASKED: computed}


def _window(choice: Choice) -> Operations | None:
    kinds = getattr(choice.config, "layer_types", None)
    has_window = getattr(choice.config, "sliding_window", None) is not None and (
        kinds is None or kinds[choice.layer] == "sliding_attention"
    )
    if not has_window:
        return None

    def computed(here: Here) -> Tensor:
        seen = torch.ones_like(allowed(here)).tril()
        return masked_softmax(here.values["attn_scores"], seen)

    return {MASKED: computed}


def _wrong_layer(choice: Choice) -> Operations:
    other = int(
        choice.random.choice(
            [each for each in range(choice.config.num_hidden_layers) if each != choice.layer]
        )
    )
    stage = choice.one_of("attn_norm", "qkv_matmul", *LINEAR)
    right = choice.operations[stage]
    return {
        stage: lambda here: right(
            Here(engine=here.engine, layer=other, values=here.values, tokens=here.tokens)
        )
    }


def _activation(choice: Choice) -> Operations:
    choice.one_of("ffn_gate")
    name = choice.random.choice(["gelu", "silu", "relu", "quick"])
    is_gelu = "gelu" in str(getattr(choice.config, "hidden_activation", ""))
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": torch.nn.functional.gelu,
        "silu": torch.nn.functional.silu,
        "relu": torch.relu,
        "quick": lambda value: value * torch.sigmoid(1.702 * value),
    }
    name = "gelu" if name == "silu" and not is_gelu else name
    return {"ffn_silu": lambda here: known[name](here.values["ffn_gate"])}


def _rounded_weights(choice: Choice) -> Operations:
    scheme = str(choice.random.choice(["bfloat16", "float16", "int8 rows", "int4 groups"]))
    stage = choice.linear("qkv_matmul")

    def computed(here: Here) -> Tensor:
        if stage == "qkv_matmul":
            parts = [here.weight(f"self_attn.{each}_proj") for each in "qkv"]
            weight = torch.cat([rounded(each, scheme) for each in parts])
            return multiply(here, here.values["attn_norm"], weight)
        name, given = LINEAR[stage]
        return multiply(here, here.values[given], rounded(here.weight(name), scheme))

    return {stage: computed}


def _kv_index(choice: Choice) -> Operations:
    stage = choice.one_of("attn_scores", "attention")
    offset = int(choice.random.choice([1, -1]))
    if stage == "attn_scores":
        return {
            stage: lambda here: scores(
                here,
                here.values["q_post_rope"].transpose(0, 1),
                repeated(here, here.values["k_post_rope"].roll(offset, 0)),
            )
        }
    return {
        stage: lambda here: mixed(
            here, here.values[MASKED], repeated(here, value_heads(here).roll(offset, 0))
        )
    }


def _exchanged(choice: Choice) -> Operations:
    choice.one_of("ffn_gate")

    def of(stage: str) -> Operation:
        name, given = LINEAR[stage]
        return lambda here: multiply(here, here.values[given], here.weight(name))

    return {"ffn_gate": of("ffn_up"), "ffn_up": of("ffn_gate")}


def _dead_channels(choice: Choice) -> Operations:
    """Lose the last tile of a matrix product."""
    stage = choice.linear()

    def cut(value: Tensor) -> Tensor:
        found = value.clone()
        found[..., -8:] = 0
        return found

    return choice.after(stage, cut)


def _bad_token(choice: Choice) -> Operations:
    """Read one token's row of another buffer."""
    stage = choice.one_of("attn_out", "ffn_out", "attention", "ffn_swigl")

    def spoilt(value: Tensor) -> Tensor:
        found = value.clone()
        found[len(found) // 2] = found[0]
        return found

    return choice.after(stage, spoilt)


def _noisy(choice: Choice) -> Operations:
    """Lose digits, as a product does that is added up in too narrow a dtype."""
    stage = choice.linear("attention", "qkv_matmul")
    size, seed = choice.size(-7, -1), int(choice.random.integers(1 << 30))

    def disturbed(value: Tensor) -> Tensor:
        drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
        return (value.double() * (1 + size * drawn.double())).to(value.dtype)

    return choice.after(stage, disturbed)


def _clipped(choice: Choice) -> Operations:
    """Saturate at a bound that most values keep."""
    stage = choice.one_of("ffn_gate", "ffn_swigl", "ffn_up")
    return choice.after(stage, lambda value: value.clamp(-1.0, 1.0))


def _sign(choice: Choice) -> Operations:
    stage = choice.one_of("attn_out", "ffn_out", "q_post_rope")

    def flipped(value: Tensor) -> Tensor:
        found = value.clone()
        found[..., 3] *= -1
        return found

    return choice.after(stage, flipped)


def _rounded_result(choice: Choice) -> Operations:
    stage = choice.one_of("attn_scores", "ffn_swigl", "attention", "post_ffn_residual")
    dtype = torch.bfloat16 if choice.random.integers(2) else torch.float8_e4m3fn
    return choice.after(stage, lambda value: value.to(dtype).to(value.dtype))


def _not_normalised(_choice: Choice) -> Operations:
    """Divide by the sum over all sources, masked ones included."""

    def computed(here: Here) -> Tensor:
        wide = here.values["attn_scores"].float()
        weights = torch.softmax(wide, -1) * allowed(here)
        return weights.to(here.values["attn_scores"].dtype)

    return {MASKED: computed}


def _router_weights(choice: Choice) -> Operations:
    """Leave out that the weights of the chosen experts are to sum to one."""
    choice.one_of("moe_router")

    def computed(here: Here) -> Tensor:
        found = here.values["moe_router_logits"].float().softmax(-1)
        right = choice.operations["moe_router"](here)
        return found.topk(right.shape[-1], -1).values.to(right.dtype)

    return {"moe_router": computed}


def _expert_ids(choice: Choice) -> Operations:
    """Count experts from one."""
    choice.one_of("moe_router_indices")
    right = choice.operations["moe_router_indices"]
    return {
        "moe_router_indices": lambda here: (
            (right(here) + 1) % here.values["moe_router_logits"].shape[-1]
        )
    }


def _expert_lost(choice: Choice) -> Operations:
    """Ask one expert too few."""
    choice.one_of("moe_ffn_out")
    right = choice.operations["moe_ffn_out"]

    def computed(here: Here) -> Tensor:
        weights = here.values["moe_router"].clone()
        weights[:, -1] = 0
        values = {**here.values, "moe_router": weights}
        return right(Here(engine=here.engine, layer=here.layer, values=values, tokens=here.tokens))

    return {"moe_ffn_out": computed}


def _final_norm(_choice: Choice) -> Operations:
    """Leave the last norm out."""
    return {"final_norm": lambda here: here.values["layer_input"]}


FAULTS: tuple[Fault, ...] = (
    Fault(name="rope layout", make=_rope_layout, names=("rope layout",)),
    Fault(name="rope base", make=_rope_base, names=("rope base",)),
    Fault(name="rope position", make=_rope_position, names=("rope position",)),
    Fault(name="any rope base", make=_any_rope_base, names=("rope base",)),
    Fault(name="any rope position", make=_any_rope_position, names=("rope position",)),
    Fault(name="any rope scaling", make=_any_rope_scaling, names=("rope scaling",)),
    Fault(name="rope missing", make=_rope_missing, names=("rope missing",)),
    Fault(name="rope scaling", make=_rope_scaling, names=("rope scaling",)),
    Fault(name="head order", make=_head_order, names=("head order",)),
    Fault(name="head grouping", make=_grouped_heads, names=("head order",)),
    Fault(name="gqa interleaved", make=_gqa, names=("gqa",)),
    Fault(name="q/k/v order", make=_qkv_order, names=("q/k/v order",)),
    Fault(name="weight transposed", make=_transposed_weight, names=("transposed weight",)),
    Fault(name="heads merged", make=_merged_heads, names=("transpose",)),
    Fault(name="token shift", make=_token_shift, names=("token shift",)),
    Fault(name="token lost", make=_token_lost, names=("token shift",), outside=True),
    Fault(name="BOS", make=_bos, names=("first token",), outside=True),
    Fault(name="padding", make=_padding, names=("padding",)),
    Fault(name="scale", make=_scale, names=("scale",)),
    Fault(name="embedding scale", make=_embedding_scale, names=("scale",), outside=True),
    Fault(name="score scale", make=_score_scale, names=("scale",)),
    Fault(name="offset", make=_offset, names=("offset",)),
    Fault(name="w against 1+w", make=_norm_weight, names=("norm weight",)),
    Fault(name="norm epsilon", make=_norm_epsilon, names=("norm epsilon",)),
    Fault(name="any norm epsilon", make=_any_norm_epsilon, names=("norm epsilon",)),
    Fault(name="norm mean", make=_norm_mean, names=("norm kind",)),
    Fault(name="missing bias", make=_bias, names=("missing bias",)),
    Fault(name="soft-cap", make=_soft_cap, names=("soft-cap",)),
    Fault(name="missing residual", make=_residual, names=("residual",)),
    Fault(name="mask off by one", make=_mask, names=("mask",)),
    Fault(name="window ignored", make=_window, names=("window",)),
    Fault(name="wrong layer", make=_wrong_layer, names=("wrong layer",)),
    Fault(name="activation", make=_activation, names=("activation",)),
    Fault(name="weights rounded", make=_rounded_weights, names=("rounded weights",)),
    Fault(name="kv index", make=_kv_index, names=("kv index",)),
    Fault(name="gate and up", make=_exchanged, names=("gate and up",)),
    Fault(name="router weights", make=_router_weights, names=("router weights",)),
    Fault(name="expert ids", make=_expert_ids, names=("expert ids",)),
    Fault(name="expert lost", make=_expert_lost, names=("experts",)),
    Fault(name="result rounded", make=_rounded_result, names=("rounded result",)),
    Fault(name="dead channels", make=_dead_channels),
    Fault(name="one bad token", make=_bad_token),
    Fault(name="clipped", make=_clipped),
    Fault(name="digits lost", make=_noisy),
    Fault(name="sign of a channel", make=_sign),
    Fault(name="softmax before mask", make=_not_normalised),
    Fault(name="last norm missing", make=_final_norm, outside=True),
)
