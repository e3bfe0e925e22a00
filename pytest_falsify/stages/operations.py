"""The arithmetic of single stages, done by the model's own modules and functions.

Every function takes a ``Place`` and the tensors of the stage's inputs, of one sequence and in
the dims of their stages, and returns the stage's tensor in its dims.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pytest_falsify.stages.adapter import Family
    from pytest_falsify.stages.context import Context
    from pytest_falsify.stages.vocabulary import Site

    Angles = Callable[["Place", torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an operation stands: a site of a model that was fed something."""

    model: Any
    family: Family
    site: Site
    context: Context

    def module(self, name: str) -> Any:
        """Return a module by a name in which ``{i}`` stands for the layer."""
        return self.model.get_submodule(name.format(i=self.site.layer))

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def attention(self) -> Any:
        """The layer's attention module."""
        return self.module(self.family.attention)

    @property
    def tokens(self) -> torch.Tensor:
        """The token ids of the step: (1, tokens)."""
        import torch

        return torch.tensor([self.context.tokens(self.site.step)], device=self.model.device)

    @property
    def positions(self) -> torch.Tensor:
        """The positions of the step's tokens: (1, tokens)."""
        import torch

        return torch.tensor(
            [list(self.context.positions(self.site.step))], device=self.model.device
        )

    @property
    def window(self) -> int | None:
        """How many tokens the layer attends to, itself included; None for all."""
        assert self.site.layer is not None
        kinds = getattr(self.config, "layer_types", None)
        if kinds is not None and kinds[self.site.layer] != "sliding_attention":
            return None
        return getattr(self.config, "sliding_window", None)

    @property
    def token_count(self) -> int:
        """How many tokens the step is fed."""
        return len(self.context.tokens(self.site.step))

    @property
    def source_count(self) -> int:
        """How many tokens the step attends to: of a window, one less of the past than it has."""
        past = self.context.positions(self.site.step)[0]
        return self.token_count + (past if self.window is None else min(past, self.window - 1))

    def must_have(self, tensor: torch.Tensor, rows: int, axis: int = 0) -> None:
        """Refuse an input that was captured at some of its tokens where all of them are needed.

        Raises:
            CaptureError: when it has another number of rows.
        """
        if tensor.shape[axis] != rows:
            msg = f"{self.site} is computed of {tensor.shape[axis]} tokens where it needs {rows}"
            raise CaptureError(msg, remedy="capture all positions")


def embed(place: Place) -> torch.Tensor:
    """Look the step's tokens up."""
    return _tapped(place, place.tokens)


def through(place: Place, given: torch.Tensor) -> torch.Tensor:
    """Put the input through the module that shows the stage."""
    return _tapped(place, given[None])


def _tapped(place: Place, given: torch.Tensor) -> torch.Tensor:
    tap = place.family.tap(place.site)
    assert tap is not None
    found: torch.Tensor = tap.pick(place.module(tap.module)(given))[0]
    return found


def add(_place: Place, residual: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
    """Add a branch to the residual stream."""
    return residual + branch


def multiply(_place: Place, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Multiply the activated gate with what it gates."""
    return one * other


def project(place: Place, given: torch.Tensor) -> torch.Tensor:
    """Project to queries, keys and values side by side, biases included."""
    import torch

    found = [place.module(name)(given[None])[0] for name in place.family.projections]
    return torch.cat(found, dim=-1)


def project_without_bias(place: Place, given: torch.Tensor) -> torch.Tensor:
    """Project to queries, keys and values side by side, before any bias."""
    import torch

    modules = [place.module(name) for name in place.family.projections]
    return torch.cat([without_bias(each, given[None])[0] for each in modules], dim=-1)


def without_bias(linear: Any, given: torch.Tensor) -> torch.Tensor:
    """Multiply as a linear module does, without the bias that it adds in the same step."""
    import torch
    from transformers.pytorch_utils import Conv1D

    if linear.bias is None:
        found: torch.Tensor = linear(given)
        return found
    if isinstance(linear, Conv1D):
        return torch.matmul(given, linear.weight)
    return torch.nn.functional.linear(given, linear.weight)


def add_bias(place: Place, given: torch.Tensor) -> torch.Tensor:
    """Add the biases of the projections."""
    import torch

    modules = [place.module(name) for name in place.family.projections]
    return given + torch.cat([each.bias for each in modules])


def split_projections(
    place: Place, given: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split queries, keys and values that lie side by side.

    Returns:
        three tensors (tokens, heads * channels), (tokens, key heads * channels) twice.
    """
    attention = place.attention
    groups = getattr(attention, "num_key_value_groups", 1)
    keys = place.config.num_attention_heads // groups * attention.head_dim
    queries, key, value = given.split([given.shape[-1] - 2 * keys, keys, keys], dim=-1)
    return queries, key, value


def heads(place: Place, packed: torch.Tensor) -> torch.Tensor:
    """Split a packed axis into heads: (tokens, heads * channels) to (tokens, heads, channels)."""
    return packed.view(len(packed), -1, place.attention.head_dim)


def angles(place: Place, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines and sines of the step's positions: (1, tokens, rotated channels)."""
    cosines, sines = place.model.model.rotary_emb(like, place.positions)
    return cosines, sines


def query(place: Place, qkv: torch.Tensor, angles: Angles = angles) -> torch.Tensor:
    """Return the queries as attention takes them: normed where the family does so, rotated."""
    each_head = _normed(place, "q_norm", split_projections(place, qkv)[0])
    return rotate(place, each_head, angles)


def key(place: Place, qkv: torch.Tensor, angles: Angles = angles) -> torch.Tensor:
    """Return the keys as attention takes them: normed where the family does so, rotated."""
    each_head = _normed(place, "k_norm", split_projections(place, qkv)[1])
    return rotate(place, each_head, angles)


def _normed(place: Place, norm: str, packed: torch.Tensor) -> torch.Tensor:
    each_head = heads(place, packed)
    module = getattr(place.attention, norm, None)
    return each_head if module is None else module(each_head[None])[0]


def rotate(place: Place, each_head: torch.Tensor, angles: Angles = angles) -> torch.Tensor:
    """Rotate heads by their positions with the function of the model's own file."""
    place.must_have(each_head, place.token_count)
    given = each_head.transpose(0, 1)[None]
    turn = sys.modules[type(place.attention).__module__].apply_rotary_pos_emb
    found: torch.Tensor = turn(given, given, *angles(place, each_head))[0][0].transpose(0, 1)
    return found


def key_cache(place: Place, *past_and_new: torch.Tensor) -> torch.Tensor:
    """Put the step's keys after those of the steps before."""
    return _cached(place, past_and_new)


def value_cache(place: Place, *past_and_qkv: torch.Tensor) -> torch.Tensor:
    """Put the step's values after those of the steps before."""
    *past, qkv = past_and_qkv
    return _cached(place, (*past, heads(place, split_projections(place, qkv)[2])))


def _cached(place: Place, past_and_new: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Join what is cached with what is new; a sliding window forgets all but its last tokens."""
    import torch

    *past, new = past_and_new
    kept = [each if place.window is None else each[-place.window + 1 :] for each in past]
    found = torch.cat([*kept, new])
    place.must_have(new, place.token_count)
    place.must_have(found, place.source_count)
    return found


def scores(place: Place, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the scaled scores before the mask: (heads, tokens, sources)."""
    import torch

    place.must_have(keys, place.source_count)
    query, key = (each.transpose(0, 1)[None] for each in (queries, keys))
    repeated = _repeated(key, query.shape[1] // key.shape[1])
    scaling = getattr(place.attention, "scaling", place.attention.head_dim**-0.5)
    found: torch.Tensor = torch.matmul(query, repeated.transpose(2, 3)) * scaling
    return found[0]


def _repeated(of_key_heads: torch.Tensor, repeats: int) -> torch.Tensor:
    return of_key_heads if repeats == 1 else of_key_heads.repeat_interleave(repeats, dim=1)


def softmax(place: Place, scaled: torch.Tensor, dtype: Any = None) -> torch.Tensor:
    """Mask the scores and make weights of them, in float32 if no other dtype is given."""
    import torch

    place.must_have(scaled, place.token_count, axis=1)
    place.must_have(scaled, place.source_count, axis=2)
    mask = _mask(place, "eager", scaled.dtype)
    masked = scaled[None] if mask is None else scaled[None] + mask
    weights = torch.nn.functional.softmax(masked, dim=-1, dtype=dtype or torch.float32)
    return weights.to(scaled.dtype)[0]


def weigh(place: Place, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mix the values by the weights: (tokens, heads * channels)."""
    import torch

    place.must_have(values, place.source_count)
    repeats = weights.shape[0] // values.shape[1]
    mixed = torch.matmul(weights[None], _repeated(values.transpose(0, 1)[None], repeats))
    return mixed.transpose(1, 2).contiguous().flatten(2)[0]


def attend(
    place: Place, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Attend in one go with the function that the model itself uses: (tokens, heads * channels)."""
    module, name = place.attention, place.config._attn_implementation  # noqa: SLF001 - see watched
    place.must_have(queries, place.token_count)
    for each in (keys, values):
        place.must_have(each, place.source_count)
    given = [each.transpose(0, 1)[None] for each in (queries, keys, values)]
    mask = _mask(place, name, queries.dtype)
    found, _ = usual_attention(name, module)(
        module, *given, mask, scaling=module.scaling, sliding_window=place.window
    )
    mixed: torch.Tensor = found.flatten(2)[0]
    return mixed


def usual_attention(name: str, module: Any) -> Any:
    """Return the function that a module attends with under the name of an implementation."""
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS[name]


def _mask(place: Place, name: str, dtype: Any) -> Any:
    """Return the mask that transformers would give an attention, or None when it needs none."""
    from transformers import masking_utils

    positions = place.context.positions(place.site.step)
    window = place.window
    inside = masking_utils.causal_mask_function
    if window is not None:
        inside = masking_utils.sliding_window_causal_mask_function(window)
    return masking_utils.ALL_MASK_ATTENTION_FUNCTIONS[name](
        batch_size=1,
        q_length=place.token_count,
        kv_length=place.source_count,
        q_offset=positions[0],
        kv_offset=positions[-1] + 1 - place.source_count,
        mask_function=inside,
        attention_mask=None,
        allow_is_causal_skip=True,
        local_size=window,
        dtype=dtype,
        config=place.config,
        device=place.model.device,
    )
