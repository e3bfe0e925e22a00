"""Which faults are caught, which honest pairs are called wrong: ours and the field's comparators.

    OMP_NUM_THREADS=1 python tests/bench/bench_detect.py [--texts independent] [--faulty 10]

The oracle is the fixture model in float64, the control its eager run at the subject's precision.
Honest subjects differ from the control in attention, threads or the batch that they run in. Of the
independent texts each is used for one pair alone, the settings in turn; of the other sets each text
is run in every setting. Faults are planted in the bfloat16 SDPA run, one at a time, at every site
where they exist. Ours judges against the control; each peer judges at its own defaults. A pair of
captures is refuted when any of its sites is.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from compare_peers import load_peers
from detect_texts import texts

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.compare.comparison import compare_tensors
from pytest_falsify.compare.faults import FAULTS, smallest_caught
from pytest_falsify.compare.noise import Judgement, judge_site
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.registry import engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_falsify.captures.capture import Capture, CapturedTensor
    from pytest_falsify.compare.noise import SiteNoise
    from pytest_falsify.stages.vocabulary import Site

    Refutes = Callable[[Site, CapturedTensor], bool]
    Peers = Mapping[str, Callable[[Any, Any], bool]]

HERE = Path(__file__).parent
TARGET = Target(name="tiny", model="../../fixtures/models/qwen2-tiny", line=0)
TOKENS = 64
ORACLE, FAULTY, OURS = "oracle", "bfloat16 sdpa", "ours, with control"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the model runs: ``batch`` sequences at once, the longer ones beside it padded for."""

    dtype: str
    attention: str = "eager"
    threads: int = 1
    batch: int = 1
    padding: str = "left"

    @property
    def options(self) -> dict[str, Any]:
        alone = {"dtype": self.dtype, "attention": self.attention, "threads": self.threads}
        batch = {"size": self.batch, "padding": self.padding}
        return alone if self.batch == 1 else alone | {"batch": batch}


RUNS = {
    ORACLE: Setting(dtype="float64"),
    "control bfloat16": Setting(dtype="bfloat16"),
    "control float32": Setting(dtype="float32"),
    "bfloat16 sdpa": Setting(dtype="bfloat16", attention="sdpa"),
    "bfloat16 eager, 2 threads": Setting(dtype="bfloat16", threads=2),
    "bfloat16 eager, batch of 3": Setting(dtype="bfloat16", batch=3),
    "bfloat16 sdpa, batch of 5": Setting(dtype="bfloat16", attention="sdpa", batch=5),
    "bfloat16 sdpa, batch of 2 right": Setting(
        dtype="bfloat16", attention="sdpa", batch=2, padding="right"
    ),
    "float32 sdpa": Setting(dtype="float32", attention="sdpa"),
    "float32 eager, 2 threads": Setting(dtype="float32", threads=2),
    "float32 sdpa, batch of 5": Setting(dtype="float32", attention="sdpa", batch=5),
    "float32 eager, batch of 3": Setting(dtype="float32", batch=3),
}
HONEST = tuple(name for name in RUNS if name.startswith(("bfloat16", "float32")))
INDEPENDENT = "independent"


def sessions() -> dict[str, Any]:
    """Return a loaded model for each run, by name."""
    return {
        name: engine("transformers").load(
            TARGET,
            CaptureSpec(name=name, engine="transformers", line=0, options=setting.options),
            root=HERE,
            device="cpu",
        )
        for name, setting in RUNS.items()
    }


@dataclass(frozen=True, kw_only=True)
class Case:
    """One text: the captures of its runs, which of them are honest subjects, and faults or not."""

    text: str
    runs: Mapping[str, Capture]
    honest: Sequence[str]
    is_faulty: bool


def cases(which: str, *, faulty: int, skip: int, most: int) -> Iterator[Case]:
    """Yield each text with the captures of its runs on it: all, or those of one pair.

    Args:
        which: the set of texts.
        faulty: for how many of them the run that faults are planted in is wanted as well.
        skip: how many texts to leave out first.
        most: how many texts at most.
    """
    loaded = sessions()
    chosen = list(texts(which).items())[skip : skip + most]
    for index, (name, text) in enumerate(chosen):
        ids = tuple(loaded[ORACLE].encode(text)[:TOKENS])
        honest = HONEST[(skip + index) % len(HONEST) :][:1] if which == INDEPENDENT else HONEST
        wanted = {ORACLE, *honest, *(control_of(each) for each in honest)}
        wanted |= {FAULTY, control_of(FAULTY)} if index < faulty else set()
        runs = {run: captured(loaded[run], name, ids) for run in RUNS if run in wanted}
        yield Case(text=name, runs=runs, honest=honest, is_faulty=index < faulty)


def captured(session: Any, name: str, tokens: tuple[int, ...]) -> Capture:
    """Return all that a run shows of some tokens."""
    plan = Plan(stages=(*session.stages, *session.on_request))
    return record(session, TokenInputs(name=name, tokens=tokens), plan)


def control_of(run: str) -> str:
    """Return the name of the control at a run's precision."""
    return f"control {run.split(maxsplit=1)[0]}"


def ours(oracle: Capture, control: Capture) -> Callable[[Site, CapturedTensor], SiteNoise]:
    """Return the judgement of one site against a control."""
    floors = {
        site: compare_tensors(tensor, oracle.tensors[site], site=site)
        for site, tensor in control.tensors.items()
    }

    def judge(site: Site, tensor: CapturedTensor) -> SiteNoise:
        return judge_site(compare_tensors(tensor, oracle.tensors[site], site=site), floors[site])

    return judge


def as_float32(tensor: CapturedTensor) -> Any:
    """Return the values as the peers can take them."""
    return np.ascontiguousarray(tensor.array.astype(np.float32))


def judges(oracle: Capture, control: Capture, peers: Peers) -> dict[str, Refutes]:
    """Return, by name, what tells whether a tensor at a site is refuted."""
    judge = ours(oracle, control)
    expected = {site: as_float32(tensor) for site, tensor in oracle.tensors.items()}

    def of_peer(passes: Callable[[Any, Any], bool]) -> Refutes:
        return lambda site, tensor: not passes(expected[site], as_float32(tensor))

    found: dict[str, Refutes] = {
        OURS: lambda site, tensor: judge(site, tensor).judgement is Judgement.BUG
    }
    return found | {name: of_peer(passes) for name, passes in peers.items()}


class Tally:
    """What every judge made of every text."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self.pairs, self.alarms = Counter[str](), Counter[str]()
        self.planted: Counter[str] = Counter()
        self.caught: Counter[tuple[str, str]] = Counter()
        self.sites: Counter[str] = Counter()
        self.missed_in: Counter[str] = Counter()
        self.alarmed: list[str] = []
        self.missed: list[str] = []
        self.above: list[str] = []
        self.smallest: dict[bool, list[float | None]] = {False: [], True: []}

    def honest(self, case: Case) -> None:
        """Count the honest pairs of one text that are refuted."""
        runs = case.runs
        for name in case.honest:
            control = runs[control_of(name)]
            self.pairs[name] += 1
            self.sites["equal"] += _is_equal(runs[name], control)
            for judge, refutes in judges(runs[ORACLE], control, self._peers).items():
                if judge != OURS:
                    tensors = runs[name].tensors.items()
                    self.alarms[judge] += any(refutes(site, each) for site, each in tensors)
            self._our_verdict(f"{name}, {case.text}", runs[name], ours(runs[ORACLE], control))

    def _our_verdict(
        self, pair: str, subject: Capture, judge: Callable[[Site, CapturedTensor], SiteNoise]
    ) -> None:
        found = [judge(site, each) for site, each in subject.tensors.items()]
        bugs = [each for each in found if each.judgement is Judgement.BUG]
        unsure = [each for each in found if each.judgement is Judgement.INCONCLUSIVE]
        self.alarms[OURS] += bool(bugs)
        self.alarms["unsure"] += bool(unsure) and not bugs
        self.sites["all"] += len(found)
        self.sites["bugs"] += len(bugs)
        self.sites["unsure"] += len(unsure)
        self.alarmed += [f"{pair}: {each.site}: {each.reason}" for each in bugs]

    def faulty(self, case: Case) -> None:
        """Plant every fault at every site of one text."""
        text, runs = case.text, case.runs
        subject, oracle = runs[FAULTY], runs[ORACLE]
        refuters = judges(oracle, runs[control_of(FAULTY)], self._peers)
        smallest = {
            row: {
                site: smallest_caught(subject, site, refuters[OURS], row=row)
                for site in subject.tensors
            }
            for row in (False, True)
        }
        for row, found in smallest.items():
            self.smallest[row] += found.values()
        for fault in FAULTS:
            for site in subject.tensors:
                tensor = fault.planted(subject, site)
                if tensor is None:
                    continue
                self.planted[fault.name] += 1
                for name, refutes in refuters.items():
                    self.caught[fault.name, name] += (is_caught := refutes(site, tensor))
                    if name == OURS and not is_caught:
                        limits = smallest[False][site], smallest[True][site]
                        self.missed_in[f"{fault.name}, {text}"] += 1
                        self._miss(f"{fault.name}, {text}, {site}", subject, tensor, site, limits)

    def _miss(
        self,
        what: str,
        subject: Capture,
        tensor: CapturedTensor,
        site: Site,
        limits: tuple[float | None, float | None],
    ) -> None:
        """Note a miss, and whether it is larger than what is said to be caught there."""
        size = compare_tensors(tensor, subject.tensors[site], site=site)
        sizes = size.total.rel_l2, size.worst_row.rel_l2
        told = f"{what}: {sizes[0]:.2g} of all (smallest caught {limits[0]}), "
        told += f"{sizes[1]:.2g} of a row (smallest caught {limits[1]})"
        self.missed.append(told)
        if any(limit is None or each >= limit for each, limit in zip(sizes, limits, strict=True)):
            self.above.append(told)

    def print(self) -> None:
        """Print the tables."""
        names = (OURS, *self._peers)
        total = sum(self.planted.values())
        pairs = sum(self.pairs.values())
        print(f"| caught of {total} faults in {FAULTY} | planted | {' | '.join(names)} |")
        print("|---|---|" + "---|" * len(names))
        for fault, planted in self.planted.items():
            caught = " | ".join(str(self.caught[fault, name]) for name in names)
            print(f"| {fault} | {planted} | {caught} |")
        sums = [sum(self.caught[fault, name] for fault in self.planted) for name in names]
        print(f"| **missed** | {total} | {' | '.join(str(total - each) for each in sums)} |")
        alarms = " | ".join(str(self.alarms[name]) for name in names)
        print(f"| **false alarms** | {pairs} honest pairs | {alarms} |")
        equal = self.sites["equal"]
        print(f"\nhonest pairs: {dict(self.pairs)}")
        print(f"{pairs - equal} of {pairs} differ from their control, {equal} have its very bits")
        print(
            f"ours: {self.sites['bugs']} of {self.sites['all']} honest sites refuted, "
            f"{self.sites['unsure']} undecided; {self.alarms['unsure']} honest pairs undecided"
        )
        for row, what in ((False, "of all rows"), (True, "of one row")):
            found = self.smallest[row]
            if not found:
                continue
            sizes = sorted(each for each in found if each)
            print(
                f"ours: smallest disturbance {what} caught: median {np.median(sizes):.2g}, worst "
                f"site {sizes[-1]:.2g}; {found.count(None)} of {len(found)} sites catch none"
            )
        print(f"ours missed: {dict(self.missed_in)}")
        for title, lines in (
            ("false alarms of ours", self.alarmed),
            ("missed by ours", self.missed),
            ("missed by ours above what is said to be caught", self.above),
        ):
            print(f"\n{title}: {len(lines)}")
            print("\n".join(f"  {line}" for line in lines[:20]))


def _is_equal(one: Capture, other: Capture) -> bool:
    shared = one.tensors.keys() & other.tensors.keys()
    return all(
        one.tensors[site].array.tobytes() == other.tensors[site].array.tobytes() for site in shared
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", choices=("tuning", "held-out", "fresh", INDEPENDENT))
    parser.set_defaults(texts=INDEPENDENT)
    parser.add_argument("--faulty", type=int, default=10, help="texts that faults are planted in")
    parser.add_argument("--most", type=int, default=1000, help="texts to use at most")
    parser.add_argument("--skip", type=int, default=0, help="texts to leave out first")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    peers, absent = ({}, ()) if arguments.no_peers else load_peers()
    tally = Tally(peers)
    found = cases(
        arguments.texts, faulty=arguments.faulty, skip=arguments.skip, most=arguments.most
    )
    for case in found:
        tally.honest(case)
        if case.is_faulty:
            tally.faulty(case)
    tally.print()
    print(f"\nnot installed: {', '.join(absent) or 'none of the peers'}")


if __name__ == "__main__":
    main()
