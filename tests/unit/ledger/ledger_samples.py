"""Evidence, blocks and ledgers for the tests of this room, by hand and by hypothesis."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from pytest_falsify.canonical import digest
from pytest_falsify.ledger.block import EntryFacts, FalsifierBlock, Ledger
from pytest_falsify.ledger.digests import DIGEST_NAMES as NAMES
from pytest_falsify.ledger.digests import Digests
from pytest_falsify.ledger.discharge import Discharge
from pytest_falsify.ledger.evidence import Evidence, Outcome, Retraction, Signature, Source
from pytest_falsify.ledger.observation import Observation

CONTRACT = "C-TEST"
FALSIFIER = "FALSIFY-TEST-001"
ENTRY, OLD_ENTRY = digest("entry"), digest("old entry")
SUBJECT, OLD_SUBJECT = digest("subject"), digest("old subject")
ORACLE, INPUTS = digest("oracle"), digest("inputs")
TODAY = Digests(subject=SUBJECT, oracle=ORACLE, inputs=INPUTS)
CAUGHT = {"planted": 8, "caught": 8, "smallest_caught": 0.0021}


def machine(name: str) -> str:
    return digest(["machine", name])


def evidence(outcome="held", target="teacher", source="live", on="a", **changes) -> Evidence:
    values = {
        "falsifier": FALSIFIER,
        "entry": ENTRY,
        "digests": replace(TODAY, **{name: changes.pop(name) for name in {*changes} & NAMES}),
        "machine": machine(on),
        "platform": "linux-x86_64, torch 2.13.0",
        "observed": {"worst": {"rel_l2": 0.0031, "site": "0/0/attn_out"}},
        "coverage": {"sites": 9},
        "reasons": () if outcome == "held" else (f"{outcome} for a reason",),
    }
    values.update(outcome=Outcome(outcome), source=Source(source), target=target, **changes)
    return Evidence(**values)


def block(*records: Evidence, today=TODAY, **changes) -> FalsifierBlock:
    targets = {each.target for each in records} | {"teacher"}
    values = {"entry": ENTRY, "today": dict.fromkeys(targets, today), "evidence": records}
    return FalsifierBlock(**{**values, **changes})


def ledger(**blocks: FalsifierBlock) -> Ledger:
    return Ledger(contract=CONTRACT, blocks=blocks)


def facts(**changes) -> EntryFacts:
    return EntryFacts(**{"entry": ENTRY, "targets": ("teacher", "tiny"), **changes})


def observe(*records: Evidence) -> list[Observation]:
    return [Observation.of(CONTRACT, each) for each in records]


outcomes = st.sampled_from(list(Outcome))
sources = st.sampled_from(list(Source))
targets = st.sampled_from(["teacher", "tiny"])
fault_counts = st.sampled_from([None, CAUGHT, {"planted": 8, "caught": 7}])
known_digests = st.builds(
    Digests,
    subject=st.sampled_from([SUBJECT, OLD_SUBJECT]),
    oracle=st.sampled_from([ORACLE, None]),
    inputs=st.just(INPUTS),
)
todays = st.dictionaries(targets, st.just(TODAY) | known_digests, max_size=2)
observed_numbers = st.fixed_dictionaries(
    {"rel_l2": st.floats(0, 1)},
    optional={
        "bit_equal": st.booleans(),
        "caveats": st.lists(st.sampled_from(["cached", "sent again"]), max_size=2, unique=True),
        "repeats": st.integers(1, 3),
    },
)
discharges = st.builds(
    Discharge,
    machines=st.none() | st.integers(1, 3),
    platforms=st.sampled_from([(), ("H200",), ("H200", "M4")]),
    repeats=st.none() | st.integers(1, 2),
    signed=st.booleans(),
)


@st.composite
def records(draw, outcomes=outcomes) -> Evidence:
    outcome, digests = draw(outcomes), draw(known_digests)
    no_subject = replace(digests, subject=None)
    is_retracted = outcome is Outcome.REFUTED and draw(st.booleans())
    return Evidence(
        falsifier=FALSIFIER,
        entry=draw(st.sampled_from([ENTRY, ENTRY, OLD_ENTRY])),
        target=draw(targets),
        machine=machine(draw(st.sampled_from("abcd"))),
        platform=draw(st.sampled_from(["linux", "linux, NVIDIA H200", "darwin, Apple M4"])),
        outcome=outcome,
        source=draw(sources),
        digests=digests if draw(st.booleans()) or outcome is Outcome.HELD else no_subject,
        reasons=tuple(draw(st.lists(st.sampled_from(["why", "also"]), max_size=1))),
        observed=draw(observed_numbers),
        coverage={"sites": draw(st.integers(0, 9))},
        faults=draw(fault_counts),
        retracted=Retraction(who="ada", why=draw(st.sampled_from("xy"))) if is_retracted else None,
        signature=draw(st.none() | st.just(Signature(signer="ada", armour="AAAA"))),
    )


supporting = st.builds(
    evidence,
    target=targets,
    source=st.sampled_from(["live", "live", "algorithm"]),
    on=st.sampled_from("abcd"),
    faults=st.just(CAUGHT),
    observed=observed_numbers,
    platform=st.sampled_from(["linux", "linux, NVIDIA H200", "darwin, Apple M4"]),
    signature=st.none() | st.just(Signature(signer="ada", armour="AAAA")),
)
"""Fresh under ``TODAY``, and mostly good for DISCHARGED: chance alone rarely makes such sets."""

record_sets = st.lists(records() | supporting, max_size=8).map(tuple)


@st.composite
def blocks(draw) -> FalsifierBlock:
    return FalsifierBlock(
        entry=draw(st.sampled_from([ENTRY, ENTRY, OLD_ENTRY])),
        today=draw(todays),
        evidence=tuple({each.id: each for each in draw(record_sets)}.values()),
        discharge=draw(discharges),
    )


@st.composite
def ledgers(draw) -> Ledger:
    found = draw(st.dictionaries(st.sampled_from(["FALSIFY-A", "FALSIFY-B"]), blocks(), max_size=2))
    return Ledger(
        contract=CONTRACT, blocks={id_: renamed(each, id_) for id_, each in found.items()}
    )


def renamed(block: FalsifierBlock, id_: str) -> FalsifierBlock:
    return replace(block, evidence=tuple(replace(each, falsifier=id_) for each in block.evidence))
