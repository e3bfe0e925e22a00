"""What goes wrong in disaggregated serving, as transfers and set-ups that a contract can name.

``FAULTS`` says of each which leg it belongs to and how a capture has it.
"""

from __future__ import annotations

import torch

PREFILL, TRANSFER, DECODE = "prefill", "transfer", "decode"
BLOCK = 2
LAYER = 1


def honest(tensors):
    return tensors


def _values(tensors, kind):
    """Return the names of one half of a layer, in order of rank and block."""
    names = [name for name in tensors if name.startswith(f"{LAYER}.{kind}.") and ".values." in name]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")[2::2]])


def dropped_block(tensors):
    """A block of keys is never written."""
    name = _values(tensors, "k")[1]
    return {**tensors, name: torch.zeros_like(tensors[name])}


def stale_block(tensors):
    """A block of values still holds what another block left there."""
    names = _values(tensors, "v")
    size = tensors[names[1]].shape[1]
    return {**tensors, names[1]: tensors[names[0]][:, :size].clone()}


def shifted_position(tensors):
    """The keys of a block arrive one slot late."""
    name = _values(tensors, "k")[0]
    return {**tensors, name: tensors[name].view(torch.uint8).roll(1, 1).view(tensors[name].dtype)}


def swapped_heads(tensors):
    """Two ranks receive each other's heads, scales included."""
    swapped = dict(tensors)
    prefix = f"{LAYER}.k."
    for name in tensors:
        if name.startswith(prefix + "0."):
            other = prefix + "1." + name.removeprefix(prefix + "0.")
            swapped[name], swapped[other] = tensors[other], tensors[name]
    return swapped


def wrong_scale(tensors):
    """The scale of one head is 10 % off; without scales, its values are."""
    names = [name for name in tensors if name.startswith(f"{LAYER}.v.0.scale.")]
    names = names or [name for name in _values(tensors, "v") if name.startswith(f"{LAYER}.v.0.")]
    return {
        name: (each.float() * 1.1).to(each.dtype) if name in names else each
        for name, each in tensors.items()
    }


def in_the_order_of_arrival(tensors):
    """Blocks of keys are numbered as they lie in memory; of the values too it would not show."""
    found = dict(tensors)
    for layer in range(sum(name.endswith(".k.0.values.0") for name in tensors)):
        names = [name for name in tensors if name.startswith(f"{layer}.k.0.values.")]
        found |= {name: tensors[other] for name, other in zip(sorted(names), names, strict=True)}
    return found


def blind_to_the_newest(model):
    """The mask of decode steps ends one token early."""

    def hook(module, arguments, keywords):
        mask = keywords.get("attention_mask")
        states = keywords.get("hidden_states", arguments[0] if arguments else None)
        if states.shape[1] != 1:
            return None
        length = keywords["past_key_values"].get_seq_length(module.layer_idx) + 1
        slots = int(length) if mask is None else mask.shape[-1]
        blind = torch.zeros(1, 1, 1, slots, dtype=states.dtype) if mask is None else mask.clone()
        blind[..., min(int(length), slots) - 1] = torch.finfo(states.dtype).min
        return arguments, {**keywords, "attention_mask": blind}

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(hook, with_kwargs=True)


def late_positions(model):
    """Decode steps count their positions from one too few."""
    _positions(model, lambda first, count: first - 1 if count == 1 else first)


def chunk_border(model):
    """From the second chunk on, the prefill begins one position early."""
    _positions(model, lambda first, count: first - 1 if first else first)


def _positions(model, shift):
    def hook(_module, arguments, keywords):
        count = keywords["input_ids"].shape[1]
        first = int(keywords["past_key_values"].get_seq_length())
        begin = shift(first, count)
        positions = torch.arange(begin, begin + count)[None]
        return arguments, {**keywords, "position_ids": positions}

    model.model.register_forward_pre_hook(hook, with_kwargs=True)


def nan_on_its_way(tensors):
    """One value is NaN where it arrives; of whole numbers, a scale is."""
    names = [name for name in tensors if name.startswith(f"{LAYER}.v.0.scale.")]
    name = (names or _values(tensors, "v"))[0]
    poisoned = tensors[name].clone()
    poisoned[0, 0, 0] = torch.nan
    return {**tensors, name: poisoned}


def poisoned_model(model):
    """One channel of a layer's values is NaN."""

    def hook(_module, _arguments, output):
        output = output.clone()
        output[..., 0] = torch.nan
        return output

    model.model.layers[LAYER].self_attn.v_proj.register_forward_hook(hook)


_HERE = __name__
FAULTS = {
    "dropped block": (
        TRANSFER,
        {"transfer": {"block": BLOCK, "through": f"{_HERE}:dropped_block"}},
    ),
    "stale block": (TRANSFER, {"transfer": {"block": BLOCK, "through": f"{_HERE}:stale_block"}}),
    "position off by one in the transfer": (
        TRANSFER,
        {"transfer": {"through": f"{_HERE}:shifted_position"}},
    ),
    "swapped heads in the re-shard": (
        TRANSFER,
        {"transfer": {"ranks": {"from": 2, "to": 1}, "through": f"{_HERE}:swapped_heads"}},
    ),
    "wrong scale of one head": (
        TRANSFER,
        {"transfer": {"ranks": {"from": 2, "to": 1}, "through": f"{_HERE}:wrong_scale"}},
    ),
    "decode mask off by one": (DECODE, {"decode": {"setup": f"{_HERE}:blind_to_the_newest"}}),
    "position off by one at decode": (DECODE, {"decode": {"setup": f"{_HERE}:late_positions"}}),
    "prefill chunk border": (
        PREFILL,
        {"prefill": {"chunk": 5, "setup": f"{_HERE}:chunk_border"}},
    ),
}


NOT_NUMBERS = {
    "NaN in the prefill": {"prefill": {"setup": f"{_HERE}:poisoned_model"}},
    "NaN on its way": {"transfer": {"through": f"{_HERE}:nan_on_its_way"}},
    "NaN at decode": {"decode": {"setup": f"{_HERE}:poisoned_model"}},
}
"""Of these the verdict may be any but a pass."""


def with_fault(options, fault):
    """Return the options of a capture with a fault put into them."""
    found = dict(options)
    for leg, own in fault.items():
        found[leg] = {**options.get(leg, {}), **own}
    return found
