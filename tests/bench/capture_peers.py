"""What the field offers for looking into a model: each a callable that runs it once, or absent."""

from __future__ import annotations

import shutil
import tempfile
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    Action = Callable[[], object]


def hidden_states(model: Any, ids: torch.Tensor) -> Action:
    """Take transformers' own layer outputs: as many bytes as our `layer outputs`."""

    def run() -> object:
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states

    return run


def hidden_states_and_attentions(model: Any, ids: torch.Tensor) -> Action:
    """Take all that transformers itself shows: layer outputs and attention weights."""

    def run() -> object:
        with torch.inference_mode():
            out = model(
                input_ids=ids, use_cache=False, output_hidden_states=True, output_attentions=True
            )
        return (*out.hidden_states, *out.attentions)

    return run


def clones(model: Any, ids: torch.Tensor) -> Action:
    """Clone every leaf module's output in forward hooks, as one writes it by hand."""

    def run() -> object:
        kept: list[torch.Tensor] = []
        leaves = [each for each in model.modules() if not list(each.children())]
        handles = [
            each.register_forward_hook(lambda _m, _a, out: kept.append(out.clone()) or None)
            for each in leaves
            if "Rotary" not in type(each).__name__
        ]
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)
        for each in handles:
            each.remove()
        return kept

    return run


def addition_debugger(model: Any, ids: torch.Tensor) -> Action:
    """Write a summary of every module's inputs and outputs, as transformers' debugger does."""
    from transformers.model_debugging_utils import model_addition_debugger_context

    def run() -> object:
        folder = tempfile.mkdtemp()
        try:
            with (
                torch.inference_mode(),
                model_addition_debugger_context(model, debug_path=folder, do_prune_layers=False),
            ):
                model.forward(input_ids=ids, use_cache=False)
        finally:
            shutil.rmtree(folder)
        return ()

    return run


def nnsight(model: Any, ids: torch.Tensor) -> Action:
    """Save every layer's output."""
    import nnsight as library

    wrapped = library.NNsight(model)

    def run() -> object:
        kept = []
        with torch.inference_mode(), wrapped.trace(input_ids=ids, use_cache=False):
            kept.extend(layer.output.save() for layer in wrapped.model.layers)
        return [each[0] if isinstance(each, tuple) else each for each in kept]

    return run


def transformer_lens(model: Any, ids: torch.Tensor) -> Action:
    """Cache every hook point of the bridge over the same model."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "<s>": 1}, unk_token="a"))
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)  # the model is given; its name must lead somewhere
        bridge = TransformerBridge.boot_transformers(
            folder,
            hf_model=deepcopy(model),  # it puts modules of its own into the model
            tokenizer=PreTrainedTokenizerFast(
                tokenizer_object=words, bos_token="<s>", name_or_path=folder
            ),
            device=str(model.device),
            dtype=model.dtype,
        )

    def run() -> object:
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(ids)
        return list(cache.values())

    return run


def torchlens(model: Any, ids: torch.Tensor) -> Action:
    """Log every operation's output."""
    import torchlens as library

    def run() -> object:
        with torch.no_grad():
            trace = library.trace(model, [], {"input_ids": ids, "use_cache": False})
        return [each.out for each in trace.layer_list if isinstance(each.out, torch.Tensor)]

    return run


PEERS: dict[str, Callable[[Any, torch.Tensor], Action]] = {
    "transformers, output_hidden_states": hidden_states,
    "transformers, hidden states and attentions": hidden_states_and_attentions,
    "hooks by hand, leaf outputs cloned": clones,
    "nnsight, layer outputs": nnsight,
    "transformer-lens, full cache": transformer_lens,
    "torchlens, everything": torchlens,
    "transformers, model_addition_debugger": addition_debugger,
}
