"""Which faults are caught, which honest pairs are called wrong: ours and the field's comparators.

    OMP_NUM_THREADS=1 python tests/bench/bench_detect.py [--texts held-out] [--faulty 10]

The oracle is the fixture model in float64, the control its eager run at the subject's precision.
Honest subjects differ from the control in attention, threads or the batch that they run in. Faults
are planted in the bfloat16 SDPA run, one at a time, at every site where they exist. Ours judges
against the control; each peer judges at its own defaults. A pair of captures is refuted when any
of its sites is.
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
from pytest_falsify.engines.base import Answer
from pytest_falsify.engines.handout import HandOut, Member
from pytest_falsify.engines.registry import engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_falsify.captures.capture import Capture, CapturedTensor
    from pytest_falsify.compare.noise import SiteNoise
    from pytest_falsify.engines.base import Sink
    from pytest_falsify.stages.vocabulary import Site

    Refutes = Callable[[Site, CapturedTensor], bool]
    Peers = Mapping[str, Callable[[Any, Any], bool]]

HERE = Path(__file__).parent
TARGET = Target(name="tiny", model="../../fixtures/models/qwen2-tiny", line=0)
TOKENS = 64
ORACLE, FAULTY, OURS = "oracle", "bfloat16 sdpa", "ours, with control"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the model runs: ``rows`` other sequences share its batch."""

    dtype: str
    attention: str = "eager"
    threads: int = 1
    rows: int = 0

    @property
    def options(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "attention": self.attention, "threads": self.threads}


RUNS = {
    ORACLE: Setting(dtype="float64"),
    "control bfloat16": Setting(dtype="bfloat16"),
    "control float32": Setting(dtype="float32"),
    "bfloat16 sdpa": Setting(dtype="bfloat16", attention="sdpa"),
    "bfloat16 eager, 2 threads": Setting(dtype="bfloat16", threads=2),
    "bfloat16 eager, batch of 3": Setting(dtype="bfloat16", rows=2),
    "bfloat16 sdpa, batch of 5": Setting(dtype="bfloat16", attention="sdpa", rows=4),
    "float32 sdpa": Setting(dtype="float32", attention="sdpa"),
    "float32 eager, 2 threads": Setting(dtype="float32", threads=2),
    "float32 sdpa, batch of 5": Setting(dtype="float32", attention="sdpa", rows=4),
}
HONEST = tuple(name for name in RUNS if name.startswith(("bfloat16", "float32")))


class Batched:
    """A session that runs an input in one batch with others of its length."""

    def __init__(self, session: Any, rows: int) -> None:
        self._session, self._rows = session, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Show the first sequence of the batch; the others are the same tokens, rotated."""
        import torch

        rows = [np.roll(inputs.tokens, shift).tolist() for shift in range(self._rows + 1)]
        watch = self._session._watch(plan)
        positions = tuple(range(len(inputs.tokens)))
        first = Member(index=0, positions=positions, columns=len(positions))
        out = HandOut(step=0, members=((first, sink),))
        with torch.inference_mode(), watch.watching(self._session.model, out.show):
            self._session.model(input_ids=torch.tensor(rows), use_cache=False)
        return Answer(logits=(), continuation=())


def sessions() -> dict[str, Any]:
    """Return a loaded model for each run, by name."""
    found = {}
    for name, setting in RUNS.items():
        spec = CaptureSpec(name=name, engine="transformers", line=0, options=setting.options)
        session = engine("transformers").load(TARGET, spec, root=HERE, device="cpu")
        found[name] = Batched(session, setting.rows) if setting.rows else session
    return found


def captures(which: str) -> Iterator[tuple[str, dict[str, Capture]]]:
    """Yield each text's name and the captures of all runs on it."""
    loaded = sessions()
    for name, text in texts(which).items():
        ids = tuple(loaded[ORACLE].encode(text)[:TOKENS])
        yield (
            name,
            {
                run: record(
                    session,
                    TokenInputs(name=name, tokens=ids),
                    Plan(stages=(*session.stages, *session.on_request)),
                )
                for run, session in loaded.items()
            },
        )


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

    def honest(self, text: str, runs: Mapping[str, Capture]) -> None:
        """Count the honest pairs of one text that are refuted."""
        for name in HONEST:
            control = runs[f"control {name.split()[0]}"]
            self.pairs[name] += 1
            self.sites["equal"] += _is_equal(runs[name], control)
            for judge, refutes in judges(runs[ORACLE], control, self._peers).items():
                if judge != OURS:
                    tensors = runs[name].tensors.items()
                    self.alarms[judge] += any(refutes(site, each) for site, each in tensors)
            self._our_verdict(f"{name}, {text}", runs[name], ours(runs[ORACLE], control))

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

    def faulty(self, text: str, runs: Mapping[str, Capture]) -> None:
        """Plant every fault at every site of one text."""
        subject, oracle = runs[FAULTY], runs[ORACLE]
        refuters = judges(oracle, runs["control bfloat16"], self._peers)
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
        print(f"\nhonest pairs: {dict(self.pairs)}; {self.sites['equal']} bit-equal to the control")
        print(
            f"ours: {self.sites['bugs']} of {self.sites['all']} honest sites refuted, "
            f"{self.sites['unsure']} undecided; {self.alarms['unsure']} honest pairs undecided"
        )
        for row, what in ((False, "of all rows"), (True, "of one row")):
            found = self.smallest[row]
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
    parser.add_argument("--texts", choices=("tuning", "held-out", "fresh"), default="held-out")
    parser.add_argument("--faulty", type=int, default=10, help="texts that faults are planted in")
    parser.add_argument("--most", type=int, default=1000, help="texts to use at most")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    peers, absent = ({}, ()) if arguments.no_peers else load_peers()
    tally = Tally(peers)
    for index, (text, runs) in enumerate(captures(arguments.texts)):
        if index >= arguments.most:
            break
        tally.honest(text, runs)
        if index < arguments.faulty:
            tally.faulty(text, runs)
    tally.print()
    print(f"\nnot installed: {', '.join(absent) or 'none of the peers'}")


if __name__ == "__main__":
    main()
