"""Every causal language model of transformers, small and random: is it captured, and unchanged?

Each is made in the first of some sizes in which transformers itself can run it and a step after it.
Then every stage is captured over a prefill and a decode step. The logits must be the same bits as
without, and as the model gives by hand. Status 1 when one of these fails, or when a model decodes
that carries nothing to its next step. With `--spoil` the steps before are forgotten, and it must
end so.

    python tests/bench/bench_architectures.py [--only mamba,gpt2] [--attention sdpa] [--dtype ...]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as CAUSAL

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines import forward
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROMPT = TokenInputs(name="prompt", tokens=(5, 6, 7, 8, 9, 10, 11))
LARGEST = 30_000_000
"""Parameters: what stays larger in spite of the sizes below is left out."""
HIDDEN, HEADS, HEAD = 32, 4, 8
SIZES: Mapping[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "embedding_dim", "lru_width", "attention_hidden_size",
         "word_embed_proj_dim", "moe_intermediate_size", "shared_expert_intermediate_size"),
        HIDDEN,
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_ff", "n_inner",
         "shared_intermediate_size"),
        2 * HIDDEN,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads",
         "encoder_attention_heads", "linear_num_value_heads", "num_local_experts", "num_experts",
         "n_routed_experts", "rotary_dim"),
        HEADS,
    ),
    **dict.fromkeys(
        ("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "d_kv", "state_size",
         "mamba_d_state", "mamba_d_head", "linear_key_head_dim", "linear_value_head_dim"),
        HEAD,
    ),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "sliding_window"), 16),
    **dict.fromkeys(("num_experts_per_tok", "num_attention_groups", "linear_num_key_heads"), 2),
    **dict.fromkeys(
        ("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace", "mamba_n_groups"), 1
    ),
    "vocab_size": 128, "max_position_embeddings": 128, "mamba_n_heads": 8, "mamba_expand": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LAYERS = "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks"
EXTRA: Mapping[str, Mapping[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8},
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "layer_types": ["mamba", "attention"],
    },
}
BASIC = "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"
KEY_HEADS, KINDS = "num_key_value_heads", "layer_types"
CAPTURED, REFUSED, ABSENT = "captured", "does not decode", "not made"
WRONG = FAILED, CHANGED, APART = "failed", "changed", "decodes otherwise"


def main() -> None:
    """Print what became of each architecture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="model types, with commas between")
    parser.add_argument("--attention", default="eager", help="eager or sdpa")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--spoil", action="store_true", help="forget the steps before: must fail")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.spoil:
        forward._carried = lambda _: {}
    wanted = set(arguments.only.split(",")) if arguments.only else None
    options = {"attention": arguments.attention, "dtype": arguments.dtype}
    verdicts: dict[str, list[str]] = {}
    for config, model in architectures():
        if wanted is None or config.model_type in wanted:
            verdict, told = verdict_of(config, model, options)
            verdicts.setdefault(verdict, []).append(config.model_type)
            print(f"{config.model_type:<28} {verdict:<18} {told}", flush=True)
    print()
    for verdict, names in sorted(verdicts.items()):
        print(f"{len(names):4} {verdict}: {', '.join(sorted(names))}")
    raise SystemExit(1 if verdicts.keys() & set(WRONG) else 0)


def architectures() -> Iterator[tuple[Any, Any]]:
    """Yield each configuration with its model, each model type once."""
    found = {config.model_type: (config, model) for config, model in CAUSAL.items()}
    for _, (config, model) in sorted(found.items()):
        yield config, model[0] if isinstance(model, (tuple, list)) else model


def verdict_of(config: Any, model: Any, options: Mapping[str, str]) -> tuple[str, str]:
    """Return what became of an architecture, and its figures or the reason."""
    with tempfile.TemporaryDirectory() as folder:
        made = make(config, model, Path(folder), dtype=getattr(torch, options["dtype"]))
        if isinstance(made, str):
            return ABSENT, made
        try:
            return capture(loaded(Path(folder), options), carries=made)
        except NoSuchAttention as error:
            return ABSENT, told_of(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            return FAILED, told_of(error)


def make(config: Any, model: Any, folder: Path, *, dtype: Any) -> bool | str:
    """Save a model; return whether it carries anything to its next step, or why there is none.

    It is loaded again and tried by hand: what transformers cannot run is no case for us.
    """
    why = "no configuration"
    for sizes in configurations(config):
        try:
            settings = config(**sizes)
            with torch.device("meta"):
                count = sum(each.numel() for each in model(settings).parameters())
            if count > LARGEST:
                why = f"{count / 1e6:.0f} million parameters"
                continue
            torch.manual_seed(0)
            model(settings).save_pretrained(folder)
            made = model.from_pretrained(folder, dtype=dtype).eval()
            fed = torch.tensor([PROMPT.tokens])
            with torch.inference_mode():
                carried = memories(made, made(fed, use_cache=True))
                if carried:
                    made(fed[:, :1], use_cache=True, **carried)
        except Exception as error:  # noqa: BLE001 - transformers' own, and of every kind
            why = told_of(error)
        else:
            return bool(carried)
    return why


def memories(model: Any, output: Any) -> dict[str, Any]:
    """Return whatever a model puts out that it also takes in, but for what a caller asks for."""
    taken = signature(model.forward).parameters
    return {name: output[name] for name in output if name in taken and output[name] is not None}


def configurations(config: Any) -> Iterator[dict[str, Any]]:
    """Yield small sizes: those that a configuration knows, then more layers, then the plainest."""
    try:
        default = config().to_dict()
    except Exception:  # noqa: BLE001 - it has no defaults: none of ours will do
        return
    names = {*default, *config.attribute_map}
    known = {name: value for name, value in SIZES.items() if name in names}
    known |= EXTRA.get(config.model_type, {})
    layers = [name for name in LAYERS if name in names]
    few = {**known, KEY_HEADS: HEADS // 2, **dict.fromkeys(layers, 2)}
    if kinds := default.get(KINDS):
        yield {**few, KINDS: [*kinds, *kinds][:2]}
    yield few
    yield {**known, KEY_HEADS: HEADS, **dict.fromkeys(layers, 8)}
    plain = {name: known[name] for name in BASIC if name in known}
    yield {**plain, **dict.fromkeys(layers, 2)}


class NoSuchAttention(Exception):
    """The model has no such attention, as transformers says itself."""


def loaded(folder: Path, options: Mapping[str, str]) -> Any:
    """Return a session of a model in a folder."""
    target = Target(name="model", model=str(folder), line=1)
    spec = CaptureSpec(name="capture", engine="transformers", line=1, options=options)
    try:
        return engine("transformers").load(target, spec, root=folder, device="cpu")
    except CaptureError as error:
        if error.remedy == "capture with `attention: eager`":
            raise NoSuchAttention(error.what) from error
        raise


def capture(session: Any, *, carries: bool) -> tuple[str, str]:
    """Return what became of a model, and its figures."""
    steps = 1 if carries else 0
    found = record(session, PROMPT, Plan(stages=session.stages, decode_steps=steps))
    bare = record(session, PROMPT, Plan(decode_steps=steps))
    sites = f"{len(found.tensors)} sites, {len(found.missing)} missing"
    if [each.tobytes() for each in found.logits] != [each.tobytes() for each in bare.logits]:
        return CHANGED, sites
    if not carries:
        try:
            record(session, PROMPT, Plan(decode_steps=1))
        except CaptureError:
            return REFUSED, sites
        return APART, f"{sites}, and each decode step runs as if it were the first"
    expected = decoded_by_hand(session.model, found.continuation[0])
    decoded = torch.tensor(found.logits[1].astype(np.float32))
    return CAPTURED if torch.equal(decoded, expected.float()) else APART, sites


def decoded_by_hand(model: Any, token: int) -> torch.Tensor:
    """Return the logits of a token after the prompt."""
    with torch.inference_mode():
        carried = memories(model, model(torch.tensor([PROMPT.tokens]), use_cache=True))
        return model(torch.tensor([[token]]), use_cache=True, **carried).logits[0]


def told_of(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]


if __name__ == "__main__":
    main()
