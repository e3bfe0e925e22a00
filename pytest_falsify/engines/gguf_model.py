"""A GGUF file as transformers would have the model: configuration, weights and tokenizer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from pytest_falsify.engines.gguf_file import GGUFFile

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What transformers calls an architecture of llama.cpp.

    Attributes:
        is_permuted: the rows of q and k lie in the order of interleaved rotary embedding.
    """

    model_type: str
    class_name: str
    is_permuted: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(model_type="llama", class_name="LlamaForCausalLM", is_permuted=True),
    "qwen2": Architecture(model_type="qwen2", class_name="Qwen2ForCausalLM"),
    "qwen3": Architecture(model_type="qwen3", class_name="Qwen3ForCausalLM"),
}
_OF_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def architecture(file: GGUFFile) -> Architecture:
    """Return what transformers calls the architecture of a file.

    Raises:
        CaptureError: when it is none that is known, or scales its rotary embedding.
    """
    found = ARCHITECTURES.get(file.architecture)
    if found is None:
        msg = f"the architecture `{file.architecture}` is not known"
        raise CaptureError(msg, path=file.path, expected=f"one of {', '.join(ARCHITECTURES)}")
    scaling = "none"
    if file.has("{arch}.rope.scaling.type"):
        scaling = file.value("{arch}.rope.scaling.type")
    if scaling != "none" or "rope_freqs.weight" in file.names:
        msg = "it scales its rotary embedding, which is not translated yet"
        raise CaptureError(msg, path=file.path, expected="a model without rope scaling")
    return found


def configuration(file: GGUFFile) -> dict[str, Any]:
    """Return ``config.json`` of a file.

    Raises:
        CaptureError: when the architecture is unknown, or the metadata lacks a size.
    """
    known = architecture(file)
    hidden, heads = file.value("{arch}.embedding_length"), file.value("{arch}.attention.head_count")
    embedding = next(each for each in file.reader.tensors if each.name == "token_embd.weight")
    return {
        "architectures": [known.class_name],
        "model_type": known.model_type,
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": file.value("{arch}.feed_forward_length"),
        "max_position_embeddings": file.value("{arch}.context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": file.value("{arch}.block_count"),
        "num_key_value_heads": file.value("{arch}.attention.head_count_kv", heads),
        "head_dim": file.value("{arch}.attention.key_length", hidden // heads),
        "rms_norm_eps": file.value("{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": file.value("{arch}.rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in file.names,
        "vocab_size": int(embedding.shape[1]),
    }


def weights(file: GGUFFile) -> Iterator[tuple[str, Array]]:
    """Yield the de-quantised tensors under transformers' names and in its order of rows.

    Raises:
        CaptureError: when a tensor is none that the architecture has.
    """
    known = architecture(file)
    heads = file.value("{arch}.attention.head_count")
    count = {"attn_q": heads, "attn_k": file.value("{arch}.attention.head_count_kv", heads)}
    for name, values in file.tensors():
        block = _BLOCK.fullmatch(name)
        if block is None and name in _OUTSIDE:
            yield _OUTSIDE[name], values
        elif block is not None and block[2] in _OF_BLOCK:
            part = f"model.layers.{block[1]}.{_OF_BLOCK[block[2]]}.{block[3]}"
            is_turned = known.is_permuted and block[2] in count
            yield part, half_split(values, count[block[2]]) if is_turned else values
        else:
            msg = f"tensor `{name}` has no place in `{file.architecture}`"
            raise CaptureError(msg, path=file.path)


def half_split(values: Array, heads: int) -> Array:
    """Return the rows of q or k in transformers' order: a head's first halves, then its second.

    llama.cpp rotates neighbouring rows, so its converter interleaves the halves of each head
    (``permute`` in convert_hf_to_gguf.py of llama.cpp); this is the way back.
    """
    half = values.shape[0] // heads // 2
    return values.reshape(heads, half, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def interleaved(values: Array, heads: int) -> Array:
    """Return the rows of q or k in llama.cpp's order; the inverse of ``half_split``."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
