"""Measure what looking costs: captures and the field's tools as ratios to the plain forward.

    OMP_NUM_THREADS=1 python tests/bench/bench_capture.py [--rounds 24] [--device cpu] [--only NAME]

Random Llama and Qwen2 of 100 M parameters, 128 tokens, float32, eager attention, one thread; all in
one process, taking turns. A plain forward runs before and after each action, and the ratio is the
median over the rounds of the action's time to the mean of its two neighbours: a busy neighbour on
the machine slows all three. Processor time (wall time on a GPU). Beside it stands the ratio of the
least time to the least mean of two neighbours; and a plain forward is one of the actions: what its
ratios differ from 1 is noise.

Status 1: a bar is not kept. ``--spoil`` copies every tensor eight times more, to show that bars can
be missed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import transformers
from capture_peers import PEERS

from pytest_falsify.captures.bundle import write_bundle
from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.captures.summary import Summarising
from pytest_falsify.engines import handout
from pytest_falsify.engines.arena import Arena
from pytest_falsify.engines.transformers import DEFAULTS, TransformersSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Action = Callable[[], object]

RESIDUALS = ("embedding", "post_attn_residual", "post_ffn_residual", "final_norm")
OUTPUTS = ("embedding", "post_ffn_residual", "final_norm")
INSIDE = ("attn_scores", "attn_softmax")
LEAVES = (
    "embedding", "attn_norm", "attn_out", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_out",
    "final_norm", "lm_head",
)  # fmt: skip
"""What leaf modules put out, but for the projections, which have a stage with or without bias."""
BARS = {
    "residual stream": {"Llama": 1.10, "Qwen2": 1.10},
    "all stages, in memory": {"Llama": 1.25, "Qwen2": 1.30},
    "all stages, statistics": {"Llama": 1.30, "Qwen2": 1.30},
    "all stages, sketches": {"Llama": 1.20, "Qwen2": 1.20},
}
MOST_MEMORY = 1.05
MEMORY_ROUNDS = 5
"""The median of so many: whether the heap still has 10 MB in one piece is a matter of chance."""
SLOW, FEW = 3.0, 2
"""What takes so many times the fastest action is repeated only so often."""
PROMPT = TokenInputs(
    name="p", tokens=tuple(np.random.default_rng(0).integers(0, 20_000, 128).tolist())
)


class Row(NamedTuple):
    """One line of the table.

    ``times`` are an action's own, ``beside`` the means of the plain forwards next to it.
    """

    name: str
    times: tuple[float, ...]
    beside: tuple[float, ...]
    bytes: int

    @property
    def seconds(self) -> float:
        """The least of the times."""
        return min(self.times)

    @property
    def ratio(self) -> float:
        """The median of the ratios to the neighbours."""
        return median(a / b for a, b in zip(self.times, self.beside, strict=True))


def session_of(family: str, device: str) -> TransformersSession:
    """Return a session of a random model: 12 layers of width 768, 12 heads, 20,000 tokens."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=20_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
        num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=1024,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    return TransformersSession(
        model=model.eval().to(device),
        folder=Path(),
        settings=dict(DEFAULTS),
        weights="sha256:" + "0" * 64,
        device=device,
    )


def ours(session: TransformersSession) -> dict[str, Action]:
    """Return what captures cost, by the bars' names and more."""
    stages = (*session.stages, *INSIDE)
    leaves = (*LEAVES, "qkv_bias" if "qkv_bias" in stages else "qkv_matmul")

    def summaries() -> object:
        sink = Summarising()
        session.run(PROMPT, Plan(stages=stages), sink)
        return sink.seen

    return {
        "layer outputs": lambda: record(session, PROMPT, Plan(stages=OUTPUTS)),
        "layer outputs and attention weights": lambda: record(
            session, PROMPT, Plan(stages=(*OUTPUTS, "attn_softmax"))
        ),
        "leaf modules' outputs": lambda: record(session, PROMPT, Plan(stages=leaves)),
        "residual stream": lambda: record(session, PROMPT, Plan(stages=RESIDUALS)),
        "all stages, in memory": lambda: record(session, PROMPT, Plan(stages=stages)),
        "all stages, statistics": summaries,
        "all stages, sketches": lambda: record(
            session, PROMPT, Plan(stages=stages), is_sketch=True
        ),
    }


def timed(plain: Action, actions: dict[str, Action], rounds: int, device: str) -> Iterator[Row]:
    """Yield the times of each action, those of the plain forwards beside it, and what it captured.

    They take turns, and each round begins with another, so that none is always run after the same:
    what ran before decides what is in the caches and on the heap.
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    captured = {}
    before, _ = seconds(plain, device)
    for done in range(rounds):
        names = list(actions)
        turn = done % len(names)
        quickest = min((min(each)[0] for each in spent.values() if each), default=0.0)
        for name in (*names[turn:], *names[:turn]):
            if done >= FEW and min(spent[name])[0] > SLOW * quickest:
                continue
            own, captured[name] = seconds(actions[name], device)
            after, _ = seconds(plain, device)
            spent[name].append((own, (before + after) / 2))
            before = after
    for name, pairs in spent.items():
        yield Row(name, *zip(*pairs, strict=True), captured[name])


def seconds(action: Action, device: str) -> tuple[float, int]:
    """Return how long an action took, and the bytes that it captured."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    gc.collect()
    begin = clock()
    found = action()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - begin, size(found)


def size(found: object) -> int:
    """Return the bytes of the arrays or tensors in whatever a tool gave back."""
    if hasattr(found, "tensors"):
        return sum(each.array.nbytes for each in found.tensors.values())
    if hasattr(found, "nbytes"):
        return int(found.nbytes)
    values = found.values() if isinstance(found, dict) else found
    return sum(map(size, values)) if isinstance(values, (list, tuple, type({}.values()))) else 0


def peak_bytes(action: Action) -> tuple[int, int]:
    """Return the highest resident memory during an action, and the bytes it captured."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier actions freed must not hide what this one needs
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far
    found = action()
    return _status("VmHWM"), size(found) + size(getattr(found, "logits", ()))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def disk(session: TransformersSession, rounds: int) -> tuple[float, float, int]:
    """Return GB/s of a bundle and of a raw synced write of as many bytes, minima, and the bytes."""
    capture = record(session, PROMPT, Plan(stages=(*session.stages, *INSIDE)))
    raw = np.zeros(capture.nbytes, np.uint8)
    raw[:] = np.arange(256, dtype=np.uint8).repeat(-(-len(raw) // 256))[: len(raw)]
    best = [float("inf")] * 2
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "bundle"
        for _ in range(rounds):
            begin = time.perf_counter()
            write_bundle(capture, place)
            best[0] = min(best[0], time.perf_counter() - begin)
            shutil.rmtree(place)
            begin = time.perf_counter()
            with (Path(folder) / "raw").open("wb") as file:
                file.write(raw.data)
                file.flush()
                os.fsync(file.fileno())
            best[1] = min(best[1], time.perf_counter() - begin)
            (Path(folder) / "raw").unlink()
    return capture.nbytes / best[0] / 1e9, capture.nbytes / best[1] / 1e9, capture.nbytes


def spoil() -> None:
    """Copy every tensor eight times more than needed."""
    usual = Arena.copy

    def wasteful(self: Arena, tensor: Any) -> Any:
        for _ in range(8):
            usual(self, tensor)
        return usual(self, tensor)

    Arena.copy = wasteful
    handout.borrows = handout.wants_sketches = lambda _sink: False


def measure(family: str, arguments: argparse.Namespace) -> list[str]:
    """Print the table of one model, and return the bars that it does not keep."""
    session = session_of(family, arguments.device)
    ids = torch.tensor([PROMPT.tokens], device=arguments.device)

    def plain() -> object:
        with torch.inference_mode():
            return session.model(input_ids=ids, use_cache=False).logits

    def is_asked(name: str) -> bool:
        return not arguments.only or any(each in name for each in arguments.only)

    own = {name: action for name, action in ours(session).items() if is_asked(name)}
    theirs, absent = peers(session.model, ids, [name for name in PEERS if is_asked(name)])
    actions = {"plain forward": plain, **own, **theirs}
    rows = list(timed(plain, actions, arguments.rounds, arguments.device))
    least = min(min(each.beside) for each in rows)
    print(
        f"\n| {family}, {arguments.device} | ms | x plain | of minima | MB kept | bar |\n"
        "|---|---|---|---|---|---|"
    )
    broken = []
    for row in rows:
        bar = BARS.get(row.name, {}).get(family)
        told = "" if bar is None else f"{bar:.2f}"
        print(
            f"| {row.name} | {row.seconds * 1e3:.0f} | {row.ratio:.2f} "
            f"| {row.seconds / least:.2f} | {row.bytes / 1e6:.0f} | {told} |"
        )
        if bar is not None and row.ratio > bar:
            broken.append(f"{family}: {row.name} {row.ratio:.3f}, to stay below {bar}")
    for name, reason in absent.items():
        print(f"| {name} | not run: {reason} | | | | |")
    if arguments.device == "cpu":
        ratio, told = _memory(session, plain)
        print(f"\n{told}\n{_disk(session, arguments.rounds)}")
        if ratio > MOST_MEMORY:
            broken.append(f"{family}: peak memory {ratio:.3f}, to stay below {MOST_MEMORY}")
    return broken


def peers(
    model: Any, ids: torch.Tensor, names: Sequence[str]
) -> tuple[dict[str, Action], dict[str, str]]:
    """Return what other tools do, each tried once, and why some are absent."""
    found, absent = {}, {}
    for name in names:
        try:
            action = PEERS[name](model, ids)
            action()
        except Exception as error:  # noqa: BLE001 - whatever a peer does wrong is its own row
            absent[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
        else:
            found[name] = action
    return found, absent


def _memory(session: TransformersSession, plain: Action) -> tuple[float, str]:
    """Measure after the rounds: at first libraries allocate for themselves, too."""
    found = []
    for _ in range(MEMORY_ROUNDS):
        session.arena = Arena()  # which has nothing yet of an earlier run
        bare, _ = peak_bytes(plain)
        most, kept = peak_bytes(ours(session)["all stages, in memory"])
        found.append((most - bare) / kept)
    middle = median(found)
    seen = ", ".join(f"{each:.2f}" for each in sorted(found))
    return middle, f"peak memory: {middle:.2f} of the {kept / 1e6:.0f} MB kept (of {seen})"


def _disk(session: TransformersSession, rounds: int) -> str:
    bundle, raw, count = disk(session, max(3, rounds // 3))
    size = f"{count / 1e6:.0f} MB"
    return f"bundle of {size}, digested and synced: {bundle:.2f} GB/s; raw write: {raw:.2f} GB/s"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--families", nargs="+", default=["Llama", "Qwen2"])
    parser.add_argument("--only", nargs="+", help="parts of the names of what is measured")
    parser.add_argument("--spoil", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.spoil:
        spoil()
    broken = [each for family in arguments.families for each in measure(family, arguments)]
    print("\n".join(["", *broken]) if broken else "\nevery bar is kept")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
