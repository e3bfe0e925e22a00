"""Which leg is blamed for a fault, and how fast a cache travels.

Prints two tables, and exits with 1 when a promise is broken: ``python
tests/bench/bench_disaggregation.py``. With ``--families`` and ``--codecs`` a part is run; with
``legs`` or ``speed`` one of the two alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import accumulate
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "disaggregation"))

import numpy as np
import torch
from broken_workers import FAULTS, NOT_NUMBERS, with_fault
from disaggregation_support import FAMILIES, Bench, save_model

from pytest_falsify.checks.base import by_input
from pytest_falsify.checks.kv import Legs, Yardstick
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.disaggregation.caches import LayerCache
from pytest_falsify.disaggregation.carriers import MemorySender
from pytest_falsify.disaggregation.legs import named
from pytest_falsify.disaggregation.process import BEGIN, LAYERS, RECEIVED, remote
from pytest_falsify.disaggregation.transfer import Transfer

ROOT = Path(__file__).parents[2]
TRAINED = "qwen2-tiny"
CODECS = {
    "every bit": {},
    "int8 a head": {"codec": "int8"},
    "fp8 a channel": {"codec": "fp8", "per": "channel"},
}
PROMPTS = (range(3, 24), range(40, 73))
HONEST = {
    "as it is": {},
    "in blocks": {"transfer": {"block": 4, "order": "reversed"}},
    "re-sharded": {"transfer": {"ranks": {"from": 2, "to": 1}}},
    "streamed, socket": {"transfer": {"streamed": True, "by": "socket"}},
    "chunks": {"prefill": {"chunk": 5}},
    "static": {"decode": {"cache": {"kind": "static", "spare": 5, "poison": 1e4}}},
}
LIMIT = {"worst_row": {"max": 1e-3}}
DECODE_STEPS = 3
NAMED_RIGHT = 0.98
LAYERS_SENT, TOKENS, HEADS, CHANNELS = 32, 2048, 8, 128
ROUNDS = 30
OF_MEMCPY = 0.5
TRANSFER = "transfer to the other process"
SHARED = "/dev/shm"


def main() -> int:
    """Print the tables, and return 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["legs", "speed"])
    parser.add_argument("--families", nargs="*", default=[TRAINED, *FAMILIES])
    parser.add_argument("--codecs", nargs="*", default=list(CODECS), choices=CODECS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    benches = {"legs": partial(legs, chosen.families, chosen.codecs), "speed": speed}
    kept = [benches[part]() for part in chosen.parts]
    return 0 if all(kept) else 1


def legs(families, codecs):
    """Plant every fault in every family under every codec; accuse no honest run."""
    begun = time.perf_counter()
    right, planted, accused, honest, escaped = Counter(), Counter(), [], 0, []
    poisoned, passed = 0, []
    with tempfile.TemporaryDirectory() as name:
        for place, bench, transfer, is_first in subjects(families, codecs, Path(name)):
            for fault, (leg, options) in FAULTS.items():
                found = blamed(bench, with_fault(transfer, options))
                planted[fault] += 1
                right[fault] += found == leg
                if found != leg:
                    escaped.append(f"{place}, {fault}: {found}")
            for fault, options in NOT_NUMBERS.items():
                poisoned += 1
                if blamed(bench, with_fault(transfer, options)) == "none":
                    passed.append(f"{place}, {fault}: passed")
            for way, options in HONEST.items() if is_first else ():
                honest += 1
                found = blamed(bench, with_fault(transfer, options))
                if found != "none":
                    accused.append(f"{place}, {way}: {found}")
    total, caught = sum(planted.values()), sum(right.values())
    print("\n| fault | leg | planted | leg named |\n|---|---|---:|---:|")
    for fault, (leg, _) in FAULTS.items():
        print(f"| {fault} | {leg} | {planted[fault]} | {right[fault]} |")
    print(f"| **all** | | **{total}** | **{caught}** ({caught / total:.1%}) |")
    print(f"| honest runs | none | {honest} | {len(accused)} accused |")
    print(f"| NaN in a leg | any | {poisoned} | {len(passed)} passed |")
    print(f"\n{time.perf_counter() - begun:.0f} s", *escaped, *accused, *passed, sep="\n")
    return caught >= NAMED_RIGHT * total and not accused and not passed


def subjects(families, codecs, root):
    """Yield what faults are planted in: its name, its model, its transfer, and if it is first."""
    for family in families:
        folder = folder_of(family, root / family)
        for tokens in PROMPTS:
            bench = Bench(folder=folder, tokens=tuple(tokens))
            for codec in codecs:
                yield f"{family}, {codec}", bench, {"transfer": CODECS[codec]}, tokens is PROMPTS[0]


def folder_of(family, folder):
    if family == TRAINED:
        return ROOT / "fixtures" / "models" / TRAINED
    return save_model(family, folder)


def blamed(bench, options):
    """Return the leg that `kv` names; ``undecided`` where it would not judge."""
    claim = bench.claim("kv", options, expect=LIMIT, decode_steps=DECODE_STEPS)
    (runs,) = by_input(bench.captures(claim)).values()
    found = Legs.of(runs, Yardstick.of(claim, compare_captures))
    return "undecided" if found.undecided and not found.guilty else named(found.guilty)


def speed():
    """Send a cache through shared memory to the other process, beside copies of as many bytes.

    The C library copies one large block faster than as many bytes in a tensor each. The promise is
    about the same tensors; the block is shown beside them.
    """
    sent = cache()
    halves = [half.view(torch.uint8) for each in sent.values() for half in (each.keys, each.values)]
    arrays = [half.numpy().reshape(-1) for half in halves]
    size = sum(each.nbytes for each in arrays)
    whole, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    block, tensors = "memcpy of one block", "memcpy of its tensors"
    with ExitStack() as stack:
        sender = stack.enter_context(closing(MemorySender()))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        file = stack.enter_context(tempfile.TemporaryFile(dir=SHARED))
        ways = {
            block: lambda: np.copyto(target, whole),
            tensors: lambda: copy_each(arrays, target),
            "... by two threads": lambda: copy_by_two(arrays, target, pool),
            TRANSFER: lambda: send(sent, sender),
            "... into a new segment each time": lambda: send_anew(sent),
            "written into a segment by the kernel": lambda: os.pwritev(file.fileno(), arrays, 0),
        }
        seconds = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                begun = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - begun)
    best = {name: min(each[1:]) for name, each in seconds.items()}
    print(f"\n| {size / 1e6:.0f} MB: 32 layers, 2,048 tokens, bfloat16 ", end="")
    print("| ms | GB/s | of its tensors | of one block |\n|---|---:|---:|---:|---:|")
    for name, each in best.items():
        shares = " | ".join(f"{best[other] / each:.0%}" for other in (tensors, block))
        print(f"| {name} | {1e3 * each:.0f} | {size / each / 1e9:.1f} | {shares} |")
    return best[tensors] / best[TRANSFER] >= OF_MEMCPY


def send_anew(sent):
    with closing(MemorySender()) as sender:
        send(sent, sender)


def copy_each(arrays, target):
    at = 0
    for each in arrays:
        target[at : at + each.nbytes] = each
        at += each.nbytes


def copy_by_two(arrays, target, pool):
    ends = accumulate(each.nbytes for each in arrays)
    parts = [target[end - each.nbytes : end] for each, end in zip(arrays, ends, strict=True)]
    list(pool.map(np.copyto, parts, arrays))


def send(sent, sender):
    """Return when the other process has every layer's tensors."""
    expected = dict.fromkeys(sent, (HEADS, TOKENS, TOKENS))
    sender.restart()
    remote().tell(BEGIN)
    pieces = Transfer(options={}).packed(sent)
    sender.put(pieces, lambda ticket: remote().tell(LAYERS, {}, expected, None, ticket))
    assert remote().ask(RECEIVED) == len(sent)


def cache():
    made = torch.randn(HEADS, TOKENS, CHANNELS).to(torch.bfloat16)
    return {
        layer: LayerCache(keys=made.clone(), values=made.clone(), length=TOKENS)
        for layer in range(LAYERS_SENT)
    }


if __name__ == "__main__":
    sys.exit(main())
