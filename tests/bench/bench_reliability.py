"""What the ledger survives, in figures: ``python tests/bench/bench_reliability.py``.

Prints a table, and exits with 1 when a promise is broken. With ``--kills`` and ``--seed`` sessions
can be killed in slices; names choose some of the benches.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "ledger"))

import reliability_sessions as sessions
from ledger_samples import CAUGHT, CONTRACT, FALSIFIER, evidence, facts, observe

from pytest_falsify.canonical import digest
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.diff import diff
from pytest_falsify.ledger.document import many_ledgers, parse, to_text
from pytest_falsify.ledger.journal import Journal, read_run, recover
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.store import read
from pytest_falsify.ledger.verify import verify

KILLS = 200
MUTATIONS = 10_000
CONTRACTS, FALSIFIERS = 100, 1_000
SECONDS, GIGABYTES = 20, 1.5
KNOWN = {name: digest(name) for name in ("sources", "model", "declared")}

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from ledger_samples import CAUGHT, CONTRACT, evidence, facts, observe
from pytest_falsify.ledger.journal import Journal
from pytest_falsify.ledger.merge import fold
from pytest_falsify.ledger.store import update
folder = Path(sys.argv[1])
journal = Journal.open(folder / "runs", {"id": sys.argv[3]})
ids = [f"FALSIFY-{number:03d}" for number in range(40)]
print("ready", flush=True)
for number in range(10_000):
    record = evidence(falsifier=ids[number % 40], faults=CAUGHT, on=f"{sys.argv[3]}-{number}")
    (seen,) = observe(record)
    journal.observe(seen)
    print(record.id, flush=True)
    change = lambda old: fold(old, CONTRACT, dict.fromkeys(ids, facts()), [seen])
    update(folder / "evidence" / f"{CONTRACT}.json", change)
"""


def main() -> int:
    """Print each figure, and return 1 when a promise is broken."""
    benches = BENCHES | {"sessions": None}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(benches), help=", ".join(benches))
    parser.add_argument("--kills", type=int, default=KILLS, help="how many sessions are killed")
    parser.add_argument("--seed", type=int, default=4, help="chooses the moments")
    chosen = parser.parse_args()
    benches["sessions"] = partial(sessions.kill_sessions, chosen.kills, chosen.seed)
    print("| bench | kept | figures | seconds |\n|---|---|---|---:|")
    broken = [name for name in chosen.names if not shown(name, benches[name])]
    return 1 if broken else 0


def shown(name, bench):
    begun = time.perf_counter()
    is_kept, words = bench()
    taken = time.perf_counter() - begun
    print(f"| {name} | {'yes' if is_kept else '**NO**'} | {words} | {taken:.1f} |", flush=True)
    return is_kept


def kills():
    """Kill a writer at a random moment; the ledger stays whole and what was reported is found."""
    unreadable = lost = 0
    dice = random.Random(4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(KILLS):
            reported = killed_writer(folder, str(number), dice.uniform(0, 0.15))
            try:
                read(folder / "evidence" / f"{CONTRACT}.json")
            except LedgerError:
                unreadable += 1
            run = recover(folder / "runs" / f"{number}.jsonl")
            kept = {each.evidence.id for each in run.observations()}
            lost += len(reported - kept)
            lost += run.is_complete
    return not (
        unreadable or lost
    ), f"{KILLS} SIGKILLs of a writer, {unreadable} unreadable, {lost} lost"


def killed_writer(folder, run, seconds):
    samples = str(Path(__file__).parents[1] / "unit" / "ledger")
    command = [sys.executable, "-c", WRITER, str(folder), samples, run]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().decode().splitlines(keepends=True)
    return {line.strip() for line in lines if line.endswith("\n")}


def mutations():
    """Change a ledger at random; whatever is not refused must say the same and promote nothing."""
    ledger = fold(None, CONTRACT, {FALSIFIER: facts()}, observe(evidence(faults=CAUGHT)))
    text, dice, wrong, refused = to_text(ledger), random.Random(4), 0, 0
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"{CONTRACT}.json"
        for _ in range(MUTATIONS):
            path.write_bytes(mutated(text.encode(), dice))
            found, problems = verify(path)
            refused += bool(problems)
            wrong += not problems and found != ledger and "DISCHARGED" in to_text(found)
    return not wrong, f"{MUTATIONS} mutants, {refused} refused, {wrong} passed as something better"


def mutated(data, dice):
    at, end = sorted(dice.choices(range(len(data)), k=2))
    end = min(end, at + dice.choice((1, 8, 200)))
    kind = dice.randrange(4)
    if kind == 0:
        return data[:at] + data[end:]
    if kind == 1:
        return data[:end] + data[at:end] + data[end:]
    if kind == 2:
        return data[:at]
    return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]


def appends():
    """Appending a record costs the same after many records as after few."""
    (seen,) = observe(evidence(faults=CAUGHT))
    with tempfile.TemporaryDirectory() as name:
        journal = Journal.open(Path(name), {})
        few = seconds(lambda: journal.observe(seen), 200)
        line = json.dumps({"kind": "note", "text": "x" * 1000}) + "\n"
        with journal.path.open("a") as file:
            file.write(line * 100_000)
        many = seconds(lambda: journal.observe(seen), 200)
        journal.close({})
        assert read_run(journal.path).is_complete
    return many < 5 * few, f"{few * 1e3:.2f} ms after 0 records, {many * 1e3:.2f} ms after 100,000"


def seconds(action, times):
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[times // 2]


def scale():
    """Load, fold and diff 100,000 falsifiers with 3 records each, all at hand at once."""
    ids = [f"FALSIFY-X-{number:06d}" for number in range(FALSIFIERS)]
    entries = {id_: facts(entry=digest(id_)) for id_ in ids}
    records = [each for id_ in ids for each in three(id_)]
    text = to_text(fold(None, CONTRACT, entries, observe(*records)))
    seen = observe(*(seen_of(id_, faults=CAUGHT) for id_ in ids[:-10]))
    seen += observe(*(seen_of(id_, outcome="refuted", on="b") for id_ in ids[-10:]))
    names = [f"C-{number}" for number in range(CONTRACTS)]
    begun = time.process_time()
    with many_ledgers():
        before = {name: parse(text) for name in names}
    loaded = time.process_time()
    after = {name: fold(before[name], CONTRACT, entries, seen) for name in names}
    folded = time.process_time()
    changed = len(diff(before, after).changes)
    taken = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    parts = f"load {loaded - begun:.1f} s, fold {folded - loaded:.1f} s"
    words = f"{taken:.1f} s of CPU ({parts}), {peak:.2f} GB at most, {changed} changes found"
    return taken < SECONDS and peak < GIGABYTES and changed == 10 * CONTRACTS, words


def three(id_):
    live = [seen_of(id_, faults=CAUGHT, on=name) for name in "ab"]
    return [*live, seen_of(id_, target="tiny", source="algorithm")]


def seen_of(id_, **more):
    """Each falsifier has an entry and numbers of its own; the target's digests are shared."""
    numbers = {"worst": {"rel_l2": int(id_[-6:]) / 1e6, "site": "0/0/attn_out"}}
    return evidence(falsifier=id_, entry=digest(id_), observed=numbers, **KNOWN, **more)


BENCHES = {
    "writers": kills,
    "mutations": mutations,
    "appends": appends,
    "scale": scale,
    "disk full": sessions.disk_full,
    "read-only": sessions.read_only,
    "together": sessions.together,
}

if __name__ == "__main__":
    sys.exit(main())
