"""Small GGUF files, written from models of transformers with the `gguf` package alone."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import load_file


def write_gguf(folder, path, *, quantised=None, permutes=True):
    """Write a GGUF file of a dense model's folder.

    Names come from the package's own table. Llama's q and k are put into llama.cpp's order as its
    converter does, unless ``permutes`` is false.
    """
    import gguf

    config = json.loads((folder / "config.json").read_text())
    kind, layers = config["model_type"], config["num_hidden_layers"]
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer.add_head_count(heads["q_proj"])
    writer.add_head_count_kv(heads["k_proj"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if kind == "llama":
        writer.add_rope_dimension_count(config["hidden_size"] // heads["q_proj"])
    _add_tokenizer(writer, folder, config["vocab_size"])
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), layers)
    for name, values in load_file(folder / "model.safetensors").items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        part = name.split(".")[-2]
        if kind == "llama" and permutes and part in heads:
            count, rows = heads[part], len(values)
            halves = values.reshape(count, 2, rows // count // 2, -1)
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, -1)  # noqa: PLW2901
        if quantised and values.ndim == 2:
            data = gguf.quants.quantize(values, quantised)
            writer.add_tensor(place, data, raw_dtype=quantised)
        else:
            writer.add_tensor(place, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, folder, size):
    known = folder / "tokenizer.json"
    model = json.loads(known.read_text())["model"] if known.exists() else None
    tokens = sorted(model["vocab"], key=model["vocab"].get) if model else ["a", "b", "ab"]
    tokens += [f"<unused{each}>" for each in range(size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    merges = model["merges"] if model else [("a", "b")]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def make_llama(folder):
    """Save a small Llama with random weights and grouped heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(8)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        tie_word_embeddings=False, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if name.endswith("norm.weight"):
                each.add_(0.2 * torch.randn_like(each))
    model.save_pretrained(folder)
    return folder
