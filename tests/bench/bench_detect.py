"""Which faults are caught, which honest pairs are called wrong: ours and the field's comparators.

    OMP_NUM_THREADS=1 python tests/bench/bench_detect.py [--inputs 8] [--tokens 64]

The oracle is the fixture model in float64; the control and the honest subjects are its bfloat16 and
float32 runs, eager and SDPA, with one thread and two. Faults are planted in the bfloat16 SDPA run,
at every site where they exist. Ours judges against the control; each peer at its own defaults.
"""

from __future__ import annotations

import argparse
import inspect
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from compare_peers import installed

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.compare.comparison import compare_tensors
from pytest_falsify.compare.faults import FAULTS, smallest_caught
from pytest_falsify.compare.noise import Judgement, judge_site
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.registry import engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_falsify.captures.capture import Capture, CapturedTensor
    from pytest_falsify.stages.vocabulary import Site

    Refutes = Callable[[Site, CapturedTensor], bool]

HERE = Path(__file__).parent
TARGET = Target(name="tiny", model="../../fixtures/models/qwen2-tiny", line=0)
RUNS = {
    "oracle": {"dtype": "float64", "attention": "eager"},
    "control bfloat16": {"dtype": "bfloat16", "attention": "eager"},
    "control float32": {"dtype": "float32", "attention": "eager"},
    "bfloat16 sdpa": {"dtype": "bfloat16", "attention": "sdpa"},
    "bfloat16 eager, 2 threads": {"dtype": "bfloat16", "attention": "eager", "threads": 2},
    "float32 sdpa": {"dtype": "float32", "attention": "sdpa"},
    "float32 eager, 2 threads": {"dtype": "float32", "attention": "eager", "threads": 2},
}
HONEST = tuple(name for name in RUNS if name.startswith(("bfloat16", "float32")))
FAULTY = "bfloat16 sdpa"
OURS = "ours, with control"
TEXTS = (
    argparse,
    inspect,
    warnings,
    Counter,
    dict,
    str,
    list,
    int,
    Path,
    np.einsum,
    np.pad,
    np.sum,
)


def captures(inputs: int, tokens: int) -> Iterator[dict[str, Capture]]:
    """Yield the captures of all runs, by name, for one input after the other."""
    sessions = {
        name: engine("transformers").load(
            TARGET,
            CaptureSpec(name=name, engine="transformers", line=0, options=options),
            root=HERE,
            device="cpu",
        )
        for name, options in RUNS.items()
    }
    for source in TEXTS[:inputs]:
        ids = sessions["oracle"].encode(inspect.getdoc(source) or "")[:tokens]
        fed = TokenInputs(name=str(source), tokens=tuple(ids))
        plan = Plan(stages=sessions["oracle"].stages)
        yield {name: record(session, fed, plan) for name, session in sessions.items()}


def ours(oracle: Capture, control: Capture) -> Callable[[Site, CapturedTensor], Judgement]:
    """Return the judgement of one site against a control."""
    floors = {
        site: compare_tensors(control.tensors[site], tensor, site=site)
        for site, tensor in oracle.tensors.items()
    }

    def judge(site: Site, tensor: CapturedTensor) -> Judgement:
        compared = compare_tensors(tensor, oracle.tensors[site], site=site)
        return judge_site(compared, floors[site]).judgement

    return judge


def as_float32(tensor: CapturedTensor) -> Any:
    """Return the values as the peers can take them."""
    return np.ascontiguousarray(tensor.array.astype(np.float32))


def judges(oracle: Capture, control: Capture, peers: dict[str, Any]) -> dict[str, Refutes]:
    """Return, by name, what tells whether a tensor at a site is refuted."""
    judge = ours(oracle, control)
    found: dict[str, Refutes] = {
        OURS: lambda site, tensor: judge(site, tensor) is Judgement.BUG,
    }
    for name, passes in peers.items():
        found[name] = lambda site, tensor, passes=passes: (
            not passes(as_float32(oracle.tensors[site]), as_float32(tensor))
        )
    return found


def false_alarms(runs: dict[str, Capture], peers: dict[str, Any], alarms: Counter[str]) -> None:
    """Count what is refuted of the honest runs of one input."""
    for name in HONEST:
        control = runs[f"control {name.split()[0]}"]
        for judge, refutes in judges(runs["oracle"], control, peers).items():
            alarms[judge] += sum(refutes(site, each) for site, each in runs[name].tensors.items())
        judgement = ours(runs["oracle"], control)
        decided = [judgement(site, each) for site, each in runs[name].tensors.items()]
        alarms["pairs"] += len(decided)
        alarms["inconclusive"] += decided.count(Judgement.INCONCLUSIVE)


def print_faults(runs: dict[str, Capture], peers: dict[str, Any]) -> None:
    """Print how many of the planted faults each judge refutes, and what ours misses."""
    subject, missed = runs[FAULTY], []
    refuters = judges(runs["oracle"], runs["control bfloat16"], peers)
    print(f"| fault planted in {FAULTY} | sites | {' | '.join(refuters)} |")
    print("|---|---|" + "---|" * len(refuters))
    for fault in FAULTS:
        planted = [(site, fault.planted(subject, site)) for site in subject.tensors]
        faulty = [(site, each) for site, each in planted if each is not None]
        caught = {
            name: [refutes(site, each) for site, each in faulty]
            for name, refutes in refuters.items()
        }
        missed += [
            f"{fault.name} at {site}"
            for (site, _), is_caught in zip(faulty, caught[OURS], strict=True)
            if not is_caught
        ]
        counts = " | ".join(str(sum(each)) for each in caught.values())
        print(f"| {fault.name} | {len(faulty)} | {counts} |")
    print(f"\nmissed by ours: {'; '.join(missed) or 'nothing'}")


def print_smallest(runs: dict[str, Capture]) -> None:
    """Print the smallest disturbance that ours still catches, over all sites."""
    judge = ours(runs["oracle"], runs["control bfloat16"])
    for row, what in ((False, "of all rows"), (True, "of one row")):
        found = [
            smallest_caught(
                runs[FAULTY], site, lambda at, each: judge(at, each) is Judgement.BUG, row=row
            )
            for site in runs[FAULTY].tensors
        ]
        sizes = sorted(each for each in found if each)
        print(
            f"smallest disturbance {what} caught: median {sizes[len(sizes) // 2]:.2g}, "
            f"worst site {sizes[-1]:.2g}; sites that catch none: {found.count(None)}"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    peers = installed()
    alarms: Counter[str] = Counter()
    for index, runs in enumerate(captures(arguments.inputs, arguments.tokens)):
        if index == 0:
            print_faults(runs, peers)
            print_smallest(runs)
        false_alarms(runs, peers, alarms)
    print(f"\n| judge | false alarms on {alarms['pairs']} honest pairs of tensors |\n|---|---|")
    for name in (OURS, *peers):
        print(f"| {name} | {alarms[name]} |")
    print(f"\nours, inconclusive: {alarms['inconclusive']}")


if __name__ == "__main__":
    main()
