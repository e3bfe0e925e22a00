"""Which operation is blamed for a planted fault: ours, and the two habits of the field.

    OMP_NUM_THREADS=1 python tests/bench/bench_localize.py [--cases 660] [--honest 200] [--seed 7]
        [--faults "scale,offset"] [--families "phi3,gpt2"]

The subject is a decoder in plain torch (localize_subject.py); a fault is another operation in the
place of one of its own (localize_faults.py), so it spreads through the run. Models are tiny: one
trained, four seeded. The oracle is transformers in float64 with the original weights. Ours knows
the weights that the subject declares and its precision, and nothing about the fault. The habits
read cosines against the oracle: (a) the first below 0.999, (b) the largest drop.

A case counts when the fault's own effect is at least three times the floor at each of its sites;
the effect is measured inside the subject, on the inputs of its own run.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import localize_more  # noqa: F401 - makes its families known
import numpy as np
import torch
from localize_faults import FAULTS, LINEAR, Absent, Choice
from localize_models import FAMILIES, declared, load
from localize_subject import Here, PlainEngine

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.localize.budget import Zoomed, stream_plan, zoom
from pytest_falsify.localize.chain import build
from pytest_falsify.localize.evaluation import Evaluator
from pytest_falsify.localize.naming import name_fault

if TYPE_CHECKING:
    from localize_faults import Fault
    from localize_subject import Operation

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.localize.chain import Chain
    from pytest_falsify.stages.vocabulary import Site

REGIMES = {"float32": "float32", "bfloat16": "bfloat16", "int8": "float32", "int4": "float32"}
NOISES = ("float32", "bfloat16", "quantised")
TOKENS = 32
TWO_FAULTS = 0.1
"""The part of the cases that have a second fault, independent of the first."""
VISIBLE, NEAR, COSINE = 3.0, 10.0, 0.999


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A family in a regime, ready to be used."""

    family: str
    regime: str
    model: Any
    evaluator: Evaluator


@cache
def original(family: str) -> Any:
    return load(family)


@cache
def oracle_model(family: str) -> Any:
    return load(family).double()


@cache
def setting(family: str, regime: str) -> Setting:
    model = declared(original(family), regime)
    return Setting(
        family=family,
        regime=regime,
        model=model,
        evaluator=Evaluator.of(model, REGIMES[regime]),
    )


def regime_of(noise: str, random: np.random.Generator) -> str:
    return str(random.choice(["int8", "int4"])) if noise == "quantised" else noise


@dataclass(frozen=True, kw_only=True)
class Case:
    """One faulty run and everything that was said about it."""

    family: str
    regime: str
    faults: tuple[Fault, ...]
    truth: frozenset[Site]
    visibility: float
    guilty: frozenset[Site]
    undecided: frozenset[Site]
    names: tuple[str, ...]
    first: Site | None
    drop: Site | None
    zoomed: frozenset[Site]
    forwards: float
    bytes_part: float

    @property
    def fault(self) -> str:
        return " + ".join(each.name for each in self.faults)

    @property
    def expected_names(self) -> frozenset[str]:
        return frozenset(name for each in self.faults for name in each.names)

    @property
    def is_visible(self) -> bool:
        return self.visibility >= VISIBLE

    def __str__(self) -> str:
        told = {
            each: " ".join(map(str, sorted(getattr(self, each), key=str)))
            for each in ("truth", "guilty", "undecided")
        }
        return (
            f"{self.family} {self.regime} {self.fault} ({self.visibility:.1f} floors): "
            f"is {told['truth']}; blamed {told['guilty'] or 'nothing'}"
            + (f"; undecided {told['undecided']}" if told["undecided"] else "")
        )


def tokens_of(family: str, random: np.random.Generator) -> TokenInputs:
    vocabulary = original(family).config.vocab_size
    return TokenInputs(name="bench", tokens=tuple(map(int, random.integers(1, vocabulary, TOKENS))))


def faulty(family: str, noise: str, fault: Fault, seed: int) -> Case | None:
    random = np.random.default_rng(seed)
    here = setting(family, regime_of(noise, random))
    engine = PlainEngine(model=here.model, style=int(random.integers(32)))
    faults = [fault]
    if random.random() < TWO_FAULTS:
        faults.append(FAULTS[int(random.integers(len(FAULTS)))])
    made: dict[tuple[int | None, str], Operation] = {}
    for each in faults:
        made |= operations_of(each, engine, random)
    if not made:
        return None
    engine.faults = made
    inputs = tokens_of(family, random)
    subject = record(engine, inputs, Plan(stages=engine.stages))
    effects = dict(engine.effects)
    chain = build(here.evaluator, subject)
    floors = {each.site: each.own.floor for each in chain.links}
    visibility = min(
        effect / floors[site] if floors[site] else float(effect > 0) * np.inf
        for site, effect in effects.items()
    )
    found = [name_fault(here.evaluator, subject, each.site) for each in chain.guilty]
    first, drop = habits(subject, oracle_capture(family, inputs))
    zoomed = zoomed_into(here.evaluator, engine, inputs)
    return Case(
        family=family,
        regime=here.regime,
        faults=tuple(faults),
        truth=frozenset(effects),
        visibility=visibility,
        guilty=frozenset(each.site for each in chain.guilty),
        undecided=frozenset(each.site for each in chain.undecided),
        names=tuple(sorted({"none" if each is None else each.fault for each in found})),
        first=first,
        drop=drop,
        zoomed=frozenset(each.site for each in zoomed.chain.guilty),
        forwards=zoomed.forwards,
        bytes_part=zoomed.nbytes / subject.nbytes,
    )


def operations_of(
    fault: Fault, engine: PlainEngine, random: np.random.Generator
) -> dict[tuple[int | None, str], Operation]:
    """Return the operations of a fault in a random layer; none where it cannot be."""
    layer = int(random.integers(engine.layer_count))
    choice = Choice(
        config=engine.model.config,
        layer=layer,
        stages=engine.stages,
        operations=engine.operations,
        random=random,
        products=tuple(each for each in LINEAR if is_product(each, engine)),
    )
    where = None if fault.outside else layer
    try:
        made = fault.make(choice) or {}
    except Absent:
        return {}
    return {(where, stage): each for stage, each in made.items()}


def is_product(stage: str, engine: PlainEngine) -> bool:
    """Tell whether a stage is its input times one matrix, and nothing else."""
    first = Here(engine=engine, layer=0, values={}, tokens=())
    try:
        return stage in engine.stages and first.bias(LINEAR[stage][0]) is None
    except AttributeError:  # experts have no matrix of that name
        return False


def zoomed_into(evaluator: Evaluator, engine: PlainEngine, inputs: TokenInputs) -> Zoomed:
    return zoom(evaluator, engine, record(engine, inputs, stream_plan(engine)))


def oracle_capture(family: str, inputs: TokenInputs) -> Capture:
    engine = PlainEngine(model=oracle_model(family))
    return record(engine, inputs, Plan(stages=engine.stages))


def habits(subject: Capture, oracle: Capture) -> tuple[Site | None, Site | None]:
    """Return the first site with a cosine below the bound, and that of the largest drop."""
    sites = compare_captures(subject, oracle).sites
    first = next((each.site for each in sites if each.total.cosine < COSINE), None)
    cosines = [1.0, *(each.total.cosine for each in sites)]
    drops = [before - after for before, after in itertools.pairwise(cosines)]
    drop = sites[int(np.argmax(drops))].site if max(drops) > 0 else None
    return first, drop


def honest(family: str, noise: str, seed: int) -> tuple[str, Chain, Chain]:
    random = np.random.default_rng(seed)
    here = setting(family, regime_of(noise, random))
    engine = PlainEngine(model=here.model, style=int(random.integers(32)))
    inputs = tokens_of(family, random)
    subject = record(engine, inputs, Plan(stages=engine.stages))
    zoomed = zoomed_into(here.evaluator, engine, inputs)
    return f"{family} {here.regime}", build(here.evaluator, subject), zoomed.chain


def plans(
    count: int, seed: int, names: str = "", families: tuple[str, ...] = FAMILIES
) -> list[tuple[str, str, Fault, int]]:
    """Return cases: every fault in every family and noise in turn, until there are enough."""
    chosen = [each for each in FAULTS if not names or each.name in names.split(",")]
    grid = [(fault, family, noise) for fault in chosen for noise in NOISES for family in families]
    order = np.random.default_rng(seed).permutation(len(grid))
    turns = [grid[order[each % len(grid)]] for each in range(count)]
    return [
        (family, noise, fault, seed * 1_000_003 + number)
        for number, (fault, family, noise) in enumerate(turns)
    ]


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:5.1f} % ({part}/{whole})" if whole else "-"


def tell(cases: list[Case]) -> None:
    seen = [each for each in cases if each.is_visible]
    unseen = [each for each in cases if not each.is_visible]
    kinds = {one.name for each in cases for one in each.faults}
    print(
        f"\n{len(cases)} faulty runs, {len(kinds)} kinds of fault;"
        f" {len(seen)} have an effect of at least {VISIBLE:g} floors and count below\n"
    )
    print(f"{'':34}{'exact site':>20}{'right layer':>20}")
    for name, one in (
        (f"(a) first cosine < {COSINE:g}", lambda each: {each.first} - {None}),
        ("(b) largest drop of the cosine", lambda each: {each.drop} - {None}),
        ("(c) own error, all captured", lambda each: each.guilty),
        ("(c) own error, within the budget", lambda each: each.zoomed),
    ):
        is_ours = name.startswith("(c)")
        exact = sum(
            one(each) == each.truth if is_ours else bool(one(each)) and one(each) <= each.truth
            for each in seen
        )
        layers = sum(
            {site.layer for site in one(each)} == {site.layer for site in each.truth}
            for each in seen
        )
        print(f"{name:34}{share(exact, len(seen)):>20}{share(layers, len(seen)):>20}")
    print(
        "\nby noise (c): "
        + "; ".join(
            f"{noise} {share(sum(each.guilty == each.truth for each in part), len(part)).strip()}"
            for noise in REGIMES
            if (part := [each for each in seen if each.regime == noise])
        )
    )
    print(
        "by family (c): "
        + "; ".join(
            f"{family} {share(sum(each.guilty == each.truth for each in part), len(part)).strip()}"
            for family in dict.fromkeys(each.family for each in cases)
            if (part := [each for each in seen if each.family == family])
        )
    )
    known = [each for each in seen if all(one.names for one in each.faults)]
    right = [each for each in known if each.names and each.expected_names.issuperset(each.names)]
    print(f"fault named, of those in the table: {share(len(right), len(known)).strip()}")
    other = [each for each in seen if not any(one.names for one in each.faults)]
    silent = [each for each in other if set(each.names) <= {"none"}]
    print(
        f"faults outside the table that were given no name: "
        f"{share(len(silent), len(other)).strip()}"
    )
    near = [each for each in seen if each.visibility < NEAR]
    print(
        f"of the {len(near)} cases below {NEAR:g} floors (c): "
        f"{share(sum(each.guilty == each.truth for each in near), len(near)).strip()}"
    )
    accused = [each for each in unseen if each.guilty - each.truth]
    caught = [each for each in unseen if each.guilty == each.truth]
    print(
        f"effect below {VISIBLE:g} floors: {len(unseen)}; {len(caught)} blamed rightly (by one "
        f"row or their scale), {len(accused)} on another site, the others on nobody"
    )
    print(
        "forwards of the subject within the budget: "
        f"mean {np.mean([each.forwards for each in cases]):.2f}, "
        f"bytes {100 * np.mean([each.bytes_part for each in cases]):.0f} % of a full capture"
    )
    print("\nmissed (c):")
    for each in seen:
        if each.guilty != each.truth:
            print(f"  {each}")
    print("\nmissed within the budget only:")
    for each in seen:
        if each.guilty == each.truth != each.zoomed:
            print(f"  {each}; the budget blamed {' '.join(map(str, each.zoomed)) or 'nothing'}")
    print("\nnamed otherwise:")
    for (fault, names), count in sorted(
        Counter(
            (each.fault, " + ".join(each.names) or "nothing")
            for each in seen
            if each not in right and each not in silent
        ).items()
    ):
        print(f"  {count:3} x {fault}: {names}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=660)
    parser.add_argument("--honest", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--faults", default="", help="kinds with commas between; all by default")
    parser.add_argument("--families", default=",".join(FAMILIES), help="with commas between")
    options = parser.parse_args()
    families = tuple(options.families.split(","))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    begun = time.process_time()
    made = (faulty(*each) for each in plans(options.cases, options.seed, options.faults, families))
    cases = [each for each in made if each is not None]
    if cases:
        tell(cases)
    accused, undecided, sites = [], 0, 0
    for number in range(options.honest):
        family, noise = families[number % len(families)], NOISES[number % len(NOISES)]
        name, chain, zoomed = honest(family, noise, options.seed * 2_000_003 + number)
        sites += len(chain.links)
        undecided += bool(chain.undecided)
        accused += [
            f"  {name}: {each.site}: {each.own.reason}" for each in (*chain.guilty, *zoomed.guilty)
        ]
    print(
        f"\nhonest runs: {options.honest}, {sites} operations judged; falsely accused: "
        f"{len(accused)}; runs with an undecided operation: {undecided}"
    )
    print("\n".join(accused))
    print(f"{time.process_time() - begun:.0f} s of CPU, torch {torch.__version__}")


if __name__ == "__main__":
    main()
