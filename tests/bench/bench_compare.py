"""Measure the comparison of a pair: ours and the field's, interleaved, minima, in one process.

    OMP_NUM_THREADS=1 python tests/bench/bench_compare.py [--megabytes 268] [--rounds 5]

The read limit is the time in which torch sums both arrays with one thread, in the same run.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from compare_peers import load_peers

from pytest_falsify.compare import kernels
from pytest_falsify.compare.counting import tally
from pytest_falsify.compare.tally import Tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

    Action = Callable[[], object]

CHANNELS = 4096
SMALL = 576
SMALL_ROUNDS = 5000
TOLERANCE = Tolerance(atol=1e-5, rtol=1e-3)


def minima(actions: dict[str, Action], rounds: int) -> dict[str, float]:
    """Return the least wall time of each action; they take turns."""
    best = dict.fromkeys(actions, float("inf"))
    for _ in range(rounds):
        for name, action in actions.items():
            begin = time.perf_counter()
            action()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def plain(x: Any, y: Any, row_length: int) -> object:
    """Measure with NumPy alone, whatever is installed."""
    kept, kernels.FAST_FROM = kernels.FAST_FROM, 1 << 62
    try:
        return kernels.pair_sums(x, y, row_length=row_length)
    finally:
        kernels.FAST_FROM = kept


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=268)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    generator = np.random.default_rng(0)
    rows = arguments.megabytes * 1_000_000 // (4 * CHANNELS)
    x = generator.standard_normal((rows, CHANNELS), dtype=np.float32)
    y = x + np.float32(1e-2) * generator.standard_normal(x.shape, dtype=np.float32)
    has_fast = kernels._compiled() is not None
    actions: dict[str, Action] = {
        "read limit (torch sum of both)": lambda: (
            torch.from_numpy(x).sum(),
            torch.from_numpy(y).sum(),
        )
    }
    if has_fast:
        actions |= {
            "ours, compiled, totals": lambda: kernels.pair_sums(x, y, row_length=x.size),
            "ours, compiled, per row": lambda: kernels.pair_sums(x, y, row_length=CHANNELS),
            "ours, compiled, rows of 64": lambda: kernels.pair_sums(x, y, row_length=64),
        }
    actions |= {
        "ours, NumPy, totals": lambda: plain(x, y, x.size),
        "ours, NumPy, per row": lambda: plain(x, y, CHANNELS),
        "ours, equal bits, per row": lambda: kernels.pair_sums(x, x, row_length=CHANNELS),
        "ours, second pass for counts": lambda: tally(x, y, [TOLERANCE]),
    }
    peers, absent = ({}, ()) if arguments.no_peers else load_peers()
    actions |= {name: (lambda passes=passes: passes(x, y)) for name, passes in peers.items()}
    for action in list(actions.values())[: 4 if has_fast else 1]:
        action()
    times = minima(actions, arguments.rounds)
    limit = times["read limit (torch sum of both)"]
    print(f"2 x {x.nbytes / 1e6:.0f} MB float32, noise 1e-2, one thread")
    print("| comparison | ms | GB/s of pair | of read limit |\n|---|---|---|---|")
    for name, seconds in times.items():
        print(
            f"| {name} | {seconds * 1e3:.0f} | {2 * x.nbytes / seconds / 1e9:.2f} "
            f"| {limit / seconds:.0%} |"
        )
    print("".join(f"| {name} | not installed | | |\n" for name in absent), end="")
    a, b = x.reshape(-1)[:SMALL], y.reshape(-1)[:SMALL]
    small = minima(
        {
            "np.allclose": lambda: np.allclose(a, b),
            "ours, one row": lambda: kernels.pair_sums(a, b, row_length=SMALL),
            "ours, 9 rows": lambda: kernels.pair_sums(a, b, row_length=SMALL // 9),
            "ours, one row, counts as well": lambda: (
                kernels.pair_sums(a, b, row_length=SMALL),
                tally(a, b, [TOLERANCE]),
            ),
            "torch assert_close, passing": lambda: torch.testing.assert_close(
                torch.from_numpy(a), torch.from_numpy(b), rtol=1, atol=1
            ),
        },
        SMALL_ROUNDS,
    )
    print(f"\n| {SMALL} values | us |\n|---|---|")
    for name, seconds in small.items():
        print(f"| {name} | {seconds * 1e6:.1f} |")


if __name__ == "__main__":
    main()
