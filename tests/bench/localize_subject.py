"""The subject of the bench: a decoder in plain torch, every operation of which can be replaced.

It shares no code with transformers, only weights; so honest runs differ from the control as another
engine would. A fault is another operation in the place of one, so it spreads as faults do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pytest_falsify.captures.capture import CapturedTensor, Identity
from pytest_falsify.engines.base import Answer
from pytest_falsify.engines.handout import MASKS, Stopped, off_device
from pytest_falsify.stages.vocabulary import STAGES, Site

if TYPE_CHECKING:
    from pytest_falsify.captures.capture import TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.engines.base import Sink

Tensor = torch.Tensor
Operation = Callable[["Here"], Tensor]
SPLITS, WIDE_NORMS, WIDE_ROPE, WIDE_SILU, HEAD_BY_HEAD = range(5)
"""The ways in which an honest engine may differ: each is one bit of ``style``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What an operation can see: the layer's values so far, and the model's weights."""

    engine: PlainEngine
    layer: int | None
    values: dict[str, Tensor]
    tokens: tuple[int, ...]

    @property
    def config(self) -> Any:
        return self.engine.model.config

    def module(self, name: str) -> Any:
        family = family_of(self)
        prefix = family.body if self.layer is None else family.layers.format(i=self.layer)
        name = family.names.get(name, name)
        return self.engine.model.get_submodule(name if name == "lm_head" else prefix + name)

    def weight(self, name: str) -> Tensor:
        module = self.module(name)
        is_turned = type(module).__name__ == "Conv1D"
        return self._part(name, module.weight.T if is_turned else module.weight)

    def bias(self, name: str) -> Tensor | None:
        bias = self.module(name).bias
        return None if bias is None else self._part(name, bias)

    def _part(self, name: str, whole: Tensor) -> Tensor:
        part = family_of(self).parts.get(name)
        return whole if part is None else part(self, whole)

    def does(self, style: int) -> bool:
        return bool(self.engine.style >> style & 1)

    @property
    def head_dim(self) -> int:
        config = self.config
        return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    @property
    def positions(self) -> Tensor:
        return torch.arange(len(self.tokens))

    @property
    def window(self) -> int | None:
        kinds = getattr(self.config, "layer_types", None)
        if kinds is not None and kinds[self.layer] != "sliding_attention":
            return None
        return getattr(self.config, "sliding_window", None)


def family_of(here: Here) -> Family:
    return PARTICULAR.get(here.config.model_type, Family())


def multiply(here: Here, given: Tensor, weight: Tensor) -> Tensor:
    """Return given @ weight^T, in one go or in two halves."""
    if not here.does(SPLITS):
        return given @ weight.T
    half = weight.shape[1] // 2
    wide = torch.promote_types(given.dtype, torch.float32)
    one = given[..., :half].to(wide) @ weight[:, :half].T.to(wide)
    return (one + given[..., half:].to(wide) @ weight[:, half:].T.to(wide)).to(given.dtype)


def normed(
    here: Here,
    given: Tensor,
    weight: Tensor,
    *,
    epsilon: float | None = None,
    plus: float | None = None,
) -> Tensor:
    """Return the root-mean-square norm of the last axis."""
    epsilon = here.config.rms_norm_eps if epsilon is None else epsilon
    plus = family_of(here).plus if plus is None else plus
    wide = given.to(torch.promote_types(given.dtype, torch.float32))
    found = wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + epsilon)
    if here.does(WIDE_NORMS) or plus:
        return (found * (weight.to(wide.dtype) + plus)).to(given.dtype)
    return found.to(given.dtype) * (weight + plus)


def split(here: Here, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    keys = key_heads(here.config) * here.head_dim
    return packed.split([packed.shape[-1] - 2 * keys, keys, keys], dim=-1)


def key_heads(config: Any) -> int:
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def heads(here: Here, packed: Tensor) -> Tensor:
    return packed.reshape(len(packed), -1, here.head_dim)


def base_of(here: Here) -> float:
    parameters = here.config.rope_parameters
    if "rope_theta" not in parameters:
        parameters = parameters[here.config.layer_types[here.layer]]
    return parameters["rope_theta"]


def angles(here: Here, *, base: float | None = None, offset: int = 0) -> Tensor:
    """Return (tokens, head_dim / 2)."""
    base = base_of(here) if base is None else base
    power = torch.arange(0, here.head_dim, 2, dtype=torch.float32) / here.head_dim
    return (here.positions + offset).float()[:, None] / base**power


def rotated(
    here: Here, given: Tensor, turn: Tensor | None = None, *, interleaved: bool = False
) -> Tensor:
    """Rotate pairs of channels: (tokens, heads, channels)."""
    turn = angles(here) if turn is None else turn
    wide = here.does(WIDE_ROPE)
    x = given.float() if wide else given
    cos, sin = (each.to(x.dtype)[:, None] for each in (turn.cos(), turn.sin()))
    half = given.shape[-1] // 2
    if interleaved:
        one, other = x[..., 0::2], x[..., 1::2]
        pairs = (one * cos - other * sin, other * cos + one * sin)
        return torch.stack(pairs, -1).flatten(-2).to(given.dtype)
    one, other = x[..., :half], x[..., half:]
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1).to(given.dtype)


def queries(here: Here) -> Tensor:
    """Return the queries by head before they are rotated."""
    found = heads(here, split(here, qkv_of(here))[0])
    return by_head_norm(here, found, "self_attn.q_norm")


def keys(here: Here) -> Tensor:
    found = heads(here, split(here, qkv_of(here))[1])
    return by_head_norm(here, found, "self_attn.k_norm")


def by_head_norm(here: Here, found: Tensor, name: str) -> Tensor:
    if not hasattr(here.module("self_attn"), name.rpartition(".")[2]):
        return found
    return normed(here, found, here.weight(name))


def qkv_of(here: Here) -> Tensor:
    return here.values["qkv_bias"] if "qkv_bias" in here.values else here.values["qkv_matmul"]


def repeated(here: Here, of_key_heads: Tensor, *, tiled: bool = False) -> Tensor:
    """Return (heads, tokens, channels)."""
    times = here.config.num_attention_heads // of_key_heads.shape[1]
    turned = of_key_heads.transpose(0, 1)
    return turned.repeat(times, 1, 1) if tiled else turned.repeat_interleave(times, 0)


def scale_of(here: Here) -> float:
    return getattr(here.config, "query_pre_attn_scalar", here.head_dim) ** -0.5


def scores(here: Here, own: Tensor, other: Tensor, *, scale: float | None = None) -> Tensor:
    """Return the scaled scores of (heads, tokens, channels)."""
    scale = scale_of(here) if scale is None else scale
    if here.does(HEAD_BY_HEAD):
        return torch.stack([q @ (k * scale).T for q, k in zip(own, other, strict=True)])
    return own @ other.transpose(1, 2) * scale


def allowed(here: Here, *, later: int = 0) -> Tensor:
    tokens = len(here.tokens)
    found = torch.ones(tokens, tokens, dtype=torch.bool).tril(later)
    return found if here.window is None else found.triu(1 - here.window)


def masked_softmax(given: Tensor, seen: Tensor) -> Tensor:
    wide = given.to(torch.promote_types(given.dtype, torch.float32))
    wide = wide.masked_fill(~seen, float("-inf"))
    found = torch.exp(wide - wide.amax(-1, keepdim=True))
    return (found / found.sum(-1, keepdim=True)).nan_to_num().to(given.dtype)


def mixed(here: Here, weights: Tensor, values: Tensor) -> Tensor:
    """Return (tokens, heads * channels)."""
    if here.does(HEAD_BY_HEAD):
        found = torch.stack([w @ v for w, v in zip(weights, values, strict=True)])
    else:
        found = weights @ values
    return found.transpose(0, 1).flatten(1)


def value_heads(here: Here) -> Tensor:
    return heads(here, split(here, qkv_of(here))[2])


def silu(here: Here, given: Tensor) -> Tensor:
    wide = given.float() if here.does(WIDE_SILU) and given.dtype != torch.float64 else given
    return (wide * torch.sigmoid(wide)).to(given.dtype)


def qkv_weight(here: Here) -> Tensor:
    return torch.cat([here.weight(f"self_attn.{each}_proj") for each in "qkv"])


def linear(name: str, given: str) -> Operation:
    def computed(here: Here) -> Tensor:
        found = multiply(here, here.values[given], here.weight(name))
        bias = here.bias(name)
        return found if bias is None else found + bias

    return computed


def norm(name: str, given: str) -> Operation:
    return lambda here: normed(here, here.values[given], here.weight(name))


def add(one: str, other: str) -> Operation:
    return lambda here: here.values[one] + here.values[other]


OPERATIONS: dict[str, Operation] = {
    "embedding": lambda here: here.weight("embed_tokens")[list(here.tokens)],
    "attn_norm": norm("input_layernorm", "layer_input"),
    "qkv_matmul": lambda here: multiply(here, here.values["attn_norm"], qkv_weight(here)),
    "qkv_bias": lambda here: (
        here.values["qkv_matmul"]
        + torch.cat([here.bias(f"self_attn.{each}_proj") for each in "qkv"])
    ),
    "q_post_rope": lambda here: rotated(here, queries(here)),
    "k_post_rope": lambda here: rotated(here, keys(here)),
    "attn_scores": lambda here: scores(
        here,
        here.values["q_post_rope"].transpose(0, 1),
        repeated(here, here.values["k_post_rope"]),
    ),
    "attn_softmax": lambda here: masked_softmax(here.values["attn_scores"], allowed(here)),
    "attention": lambda here: mixed(
        here, here.values["attn_softmax"], repeated(here, value_heads(here))
    ),
    "attn_out": linear("self_attn.o_proj", "attention"),
    "post_attn_residual": add("layer_input", "attn_out"),
    "ffn_norm": norm("post_attention_layernorm", "post_attn_residual"),
    "ffn_gate": linear("mlp.gate_proj", "ffn_norm"),
    "ffn_up": linear("mlp.up_proj", "ffn_norm"),
    "ffn_silu": lambda here: silu(here, here.values["ffn_gate"]),
    "ffn_swigl": lambda here: here.values["ffn_silu"] * here.values["ffn_up"],
    "ffn_out": linear("mlp.down_proj", "ffn_swigl"),
    "post_ffn_residual": add("post_attn_residual", "ffn_out"),
    "final_norm": norm("norm", "layer_input"),
    "lm_head": linear("lm_head", "final_norm"),
}


def gelu_of(here: Here, given: Tensor) -> Tensor:
    wide = given.float() if here.does(WIDE_SILU) and given.dtype != torch.float64 else given
    inner = 0.7978845608028654 * (wide + 0.044715 * wide**3)
    return (0.5 * wide * (1 + torch.tanh(inner))).to(given.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What is particular about a family.

    Attributes:
        plus: what norms add to their weights.
        operations: in the place of the usual ones, in causal order.
        body: what the names of modules begin with, outside the layers.
        layers: the same inside a layer.
        names: of modules, where they are not the usual ones.
        parts: by usual name, which rows of a module's weight and bias are meant.
    """

    plus: float = 0.0
    operations: Mapping[str, Operation] = field(default_factory=lambda: OPERATIONS)
    body: str = "model."
    layers: str = "model.layers.{i}."
    names: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Callable[[Here, Tensor], Tensor]] = field(default_factory=dict)


GEMMA3 = {
    **OPERATIONS,
    "embedding": lambda here: OPERATIONS["embedding"](here) * here.config.hidden_size**0.5,
    "attn_post_norm": norm("post_attention_layernorm", "attn_out"),
    "post_attn_residual": add("layer_input", "attn_post_norm"),
    "ffn_norm": norm("pre_feedforward_layernorm", "post_attn_residual"),
    "ffn_silu": lambda here: gelu_of(here, here.values["ffn_gate"]),
    "ffn_post_norm": norm("post_feedforward_layernorm", "ffn_out"),
    "post_ffn_residual": add("post_attn_residual", "ffn_post_norm"),
}
PARTICULAR = {
    "gemma3_text": Family(
        plus=1.0, operations={each: GEMMA3[each] for each in STAGES if each in GEMMA3}
    )
}


@dataclass(kw_only=True)
class PlainEngine:
    """A session that runs the operations one after the other.

    Attributes:
        model: a model of transformers; its weights are used, never its code.
        style: which honest variations it uses, one bit each.
        faults: other operations, by layer and stage.
        effects: of the last run, how far each fault's result is from the right one, on the same
            inputs: relative L2.
    """

    model: Any
    style: int = 0
    faults: Mapping[tuple[int | None, str], Operation] = field(default_factory=dict)
    effects: dict[Site, float] = field(default_factory=dict)

    @property
    def operations(self) -> Mapping[str, Operation]:
        return PARTICULAR.get(self.model.config.model_type, Family()).operations

    @property
    def layer_count(self) -> int:
        return self.model.config.num_hidden_layers

    @property
    def stages(self) -> tuple[str, ...]:
        first = Here(engine=self, layer=0, values={}, tokens=())
        lacks_bias = first.bias("self_attn.q_proj") is None
        return tuple(each for each in self.operations if not (lacks_bias and each == "qkv_bias"))

    def identity(self) -> Identity:
        return Identity(
            engine="plain", versions={}, weights="", settings={"style": self.style}, device="cpu"
        )

    def encode(self, text: str) -> tuple[int, ...]:
        raise NotImplementedError

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        wanted = set(plan.sites(self.layer_count))
        last = None if plan.needs_answer else max(wanted, key=lambda each: each.causal_key)
        self.effects.clear()
        with torch.inference_mode():
            try:
                logits = self._run(inputs, wanted, sink, last)
            except Stopped:
                return Answer(logits=(), continuation=(), stopped_at=last)
        return Answer(logits=(off_device(logits),), continuation=())

    def _run(self, inputs: TokenInputs, wanted: set[Site], sink: Sink, last: Site | None) -> Tensor:
        def done(layer: int | None, stage: str, values: dict[str, Tensor]) -> Tensor:
            site = Site(0, layer, stage)
            here = Here(engine=self, layer=layer, values=values, tokens=inputs.tokens)
            values[stage] = self._computed(site, here)
            if site in wanted:
                sink(site, _captured(stage, values[stage], len(inputs.tokens)))
            if site == last:
                raise Stopped
            return values[stage]

        stream = done(None, "embedding", {})
        inside = [each for each in self.stages if STAGES[each].scope.name == "LAYER"]
        for layer in range(self.layer_count):
            values = {"layer_input": stream}
            for stage in inside:
                stream = done(layer, stage, values)
        values = {"layer_input": stream}
        done(None, "final_norm", values)
        return done(None, "lm_head", values)

    def _computed(self, site: Site, here: Here) -> Tensor:
        right = self.operations[site.stage]
        fault = self.faults.get((site.layer, site.stage))
        if fault is None:
            return right(here)
        faulty, honest = fault(here), right(here)
        difference = torch.linalg.vector_norm(faulty.double() - honest.double())
        self.effects[site] = float(difference / torch.linalg.vector_norm(honest.double()))
        return faulty


def _captured(stage: str, value: Tensor, tokens: int) -> CapturedTensor:
    return CapturedTensor(
        array=off_device(value),
        dims=STAGES[stage].dims,
        positions=tuple(range(tokens)),
        mask=MASKS.get(stage, "none"),
    )
