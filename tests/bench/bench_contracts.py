"""How long contracts take to collect, as whole processes on one core, and in what memory.

Two thousand contracts with sixteen thousand falsifiers are compared with what cannot be avoided:
PyYAML's C loader parsing the same files, and pytest collecting as many plain test functions.

    python tests/bench/bench_contracts.py [--contracts 2000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EACH = 8
"""Falsifiers of one contract."""
PARSE = """
import sys, time, yaml
from pathlib import Path
paths = sorted(Path(sys.argv[1]).glob("*.yaml"))
start, used = time.perf_counter(), time.process_time()
for path in paths:
    yaml.load(path.read_bytes(), yaml.CSafeLoader)
print(time.perf_counter() - start, time.process_time() - used)
"""
PLAIN_MODULES = 16
"""Few large modules: the cheapest way for pytest to collect so many functions."""


def contract_text(number: int) -> str:
    """Return a contract; every second one is executable, the others are prose, as in the field."""
    lines = [
        f"metadata: {{id: C-SYNTHETIC-{number}, version: 1.0.0, created: 2026-01-31}}",
        "equations:",
        "  softmax:",
        '    formula: "exp(x_i - max(x)) / sum_j exp(x_j - max(x))"',
        "    domain: real vectors of any length",
        '    invariants: ["sums to one", "every value is between zero and one"]',
        "proof_obligations:",
        '- {type: bound, property: sums to one, formal: "|sum - 1| < eps", tolerance: 1e-5}',
        '- {type: invariant, property: order is kept, formal: "x < y -> s(x) < s(y)"}',
    ]
    is_executable = number % 2 == 0
    if is_executable:
        lines += [
            "targets:",
            "  tiny: {model: models/tiny, device: cpu, level: algorithm}",
            "captures:",
            "  oracle: {engine: transformers, dtype: float32, attention: eager}",
            "  subject: {engine: transformers, dtype: bfloat16, attention: sdpa}",
            "inputs:",
            '  prompt: {text: "What is two and two?"}',
        ]
    lines.append("falsification_tests:")
    for position in range(EACH):
        lines += [
            f"- id: FALSIFY-SYN-{number:04}-{position:03}",
            "  rule: the values of every row sum to one within rounding",
            f"  prediction: claim {position} of contract {number} holds at every stage",
            '  if_fails: "the subtraction of the maximum is missing, or the sum is in half"',
            "  binds_to: softmax",
        ]
        if is_executable:
            lines += [
                "  require: FUNCTIONAL",
                "  check:",
                "    kind: parity",
                "    subject: subject",
                "    oracle: oracle",
                "    stages: [attn_norm, attn_softmax, attn_out, post_ffn_residual]",
                f"    layers: 0..{position + 1}",
                "    expect: {rel_l2: {max: 1e-3}}",
            ]
        else:
            lines.append("  test: proptest with random vectors, some of them near zero")
    return "\n".join(lines) + "\n"


def write_trees(root: Path, contracts: int) -> tuple[Path, Path]:
    """Write the contracts, and as many plain test functions."""
    ours, plain = root / "contracts", root / "plain"
    ours.mkdir()
    plain.mkdir()
    for number in range(contracts):
        (ours / f"synthetic-{number:04}-v1.yaml").write_text(contract_text(number))
    functions = contracts * EACH // PLAIN_MODULES
    body = "".join(f"def test_{number:05}():\n    assert True\n\n\n" for number in range(functions))
    for number in range(PLAIN_MODULES):
        (plain / f"test_plain_{number:02}.py").write_text(body)
    (root / "pytest.ini").write_text("[pytest]\n")
    return ours, plain


Times = tuple[float, float]
"""Wall and processor seconds: on a busy machine only the second ones mean anything."""


def processor_seconds() -> float:
    """Return what all finished children have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command: list[str], cwd: Path) -> tuple[Times, str]:
    """Return the seconds and the output of a command."""
    used = processor_seconds()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        msg = f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise SystemExit(msg)
    return (seconds, processor_seconds() - used), done.stdout


def collect(folder: Path, *options: str) -> tuple[Times, int]:
    """Return the seconds that pytest takes to collect a folder, and how many items it finds."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options, str(folder)]
    seconds, output = run(command, folder.parent)
    return seconds, sum("::" in line for line in output.splitlines())


def main() -> None:
    """Print the times, interleaved minima, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contracts", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ours, plain = write_trees(root, arguments.contracts)
        times: dict[str, list[Times]] = {}
        for _ in range(arguments.repeats):
            measure(root, ours, plain, times)
        for clock, name in enumerate(("wall", "processor")):
            report(name, {key: min(each[clock] for each in all_) for key, all_ in times.items()})


def measure(root: Path, ours: Path, plain: Path, times: dict[str, list[Times]]) -> None:
    """Take each time once."""
    _, output = run([sys.executable, "-c", PARSE, str(ours)], root)
    parse = tuple(map(float, output.split()))
    base, plain_items = collect(plain, "-p", "no:falsify")
    shutil.rmtree(root / ".pytest_cache", ignore_errors=True)
    cold, cold_items = collect(ours, "--falsify")
    warm, warm_items = collect(ours, "--falsify")
    if not plain_items == cold_items == warm_items:
        msg = f"{plain_items} functions, {cold_items} cold, {warm_items} warm"
        raise SystemExit(msg)
    for name, seconds in (
        ("parse", parse), ("plain", base), ("cold", cold), ("warm", warm)
    ):  # fmt: skip
        times.setdefault(name, []).append(seconds)


def report(clock: str, best: dict[str, float]) -> None:
    """Print what was measured and what it is to stay below."""
    cold = best["cold"] / (best["parse"] + best["plain"])
    warm = best["warm"] / best["plain"]
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    lines = (
        f"{clock} time, the least of all repeats",
        f"PyYAML's C loader parses the contracts   {best['parse']:7.2f} s",
        f"pytest collects as many plain functions  {best['plain']:7.2f} s",
        f"contracts collected cold                 {best['cold']:7.2f} s",
        f"contracts collected warm                 {best['warm']:7.2f} s",
        f"cold / (parse + plain)                   {cold:7.2f}   to stay below 1.3",
        f"warm / plain                             {warm:7.2f}   to stay below 1.5",
        f"largest process                          {memory:7.0f} MB to stay below 600",
    )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
