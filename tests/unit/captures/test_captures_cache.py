"""Captures on disk: made once by whoever comes first, whole or absent, and never of something else.

Where processes matter they are real ones, and are killed by SIGKILL.
"""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
import pytest
from cache_sessions import PLAN, PROMPT, Counted, ask, die_while_running, die_while_writing

from pytest_falsify.captures.bundle import read_bundle
from pytest_falsify.captures.cache import CaptureCache
from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.pool import CapturePool

SPAWN = multiprocessing.get_context("spawn")
WAIT = 60


@pytest.fixture
def cache(tmp_path):
    return CaptureCache(folder=tmp_path / "captures", scope="s")


@pytest.fixture
def session(tmp_path):
    return Counted(tmp_path / "counts")


def entries(cache):
    return sorted(each for each in cache.folder.iterdir() if each.is_dir())


def same(one, other):
    return list(one.tensors) == list(other.tensors) and all(
        each.array.tobytes() == other.tensors[site].array.tobytes()
        for site, each in one.tensors.items()
    )


def test_what_is_there_is_not_run_again_and_has_the_same_bits(cache, session):
    made = cache.capture(session, PROMPT, PLAN)
    found = cache.capture(session, TokenInputs(name="renamed", tokens=PROMPT.tokens), PLAN)

    assert session.runs == 1
    assert same(made, found)
    assert found.inputs.name == "renamed"
    assert found.identity == made.identity


def test_a_part_of_what_is_there_is_not_run_and_more_is_run_with_both(cache, session):
    cache.capture(session, PROMPT, Plan(stages=("attn_out",)))
    cache.capture(session, PROMPT, Plan(stages=("attn_out",), layers=(1,)))
    assert session.runs == 1

    cache.capture(session, PROMPT, Plan(stages=("lm_head",)))
    cache.capture(session, PROMPT, Plan(stages=("attn_out", "lm_head")))

    assert session.runs == 2
    assert len(entries(cache)) == 1


DIFFERENT = {
    "weights": {"identity": {"weights": "x"}},
    "version": {"identity": {"versions": {"lib": "2"}}},
    "engine": {"identity": {"engine": "f"}},
    "settings": {"identity": {"settings": {"dtype": "bfloat16"}}},
    "device": {"identity": {"device": "cuda"}},
    "device of another name": {"identity": {"device_name": "another"}},
    "tokens": {"inputs": TokenInputs(name="p", tokens=(1, 2, 4))},
    "forced tokens": {"inputs": TokenInputs(name="p", tokens=(1, 2, 3), forced=(1,))},
    "steps": {"plan": Plan(stages=PLAN.stages, decode_steps=1)},
    "positions": {"plan": Plan(stages=PLAN.stages, positions=(0,))},
    "scope": {"scope": "t"},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_whatever_decides_the_numbers_makes_another_entry(cache, session, what):
    cache.capture(session, PROMPT, PLAN)
    changed = DIFFERENT[what]
    other = CaptureCache(folder=cache.folder, scope=changed.get("scope", "s"))

    other.capture(
        Counted(session.counts, **changed.get("identity", {})),
        changed.get("inputs", PROMPT),
        changed.get("plan", PLAN),
    )

    assert session.runs == 2
    assert len(entries(cache)) == 2


def test_the_order_in_which_positions_are_named_does_not_matter(cache, session):
    for positions in ((2, 0), (0, 2), (0, 2, 0)):
        cache.capture(session, PROMPT, Plan(stages=PLAN.stages, positions=positions))

    assert session.runs == 1


def test_an_entry_under_a_wrong_name_is_never_believed(cache, session):
    cache.capture(session, PROMPT, PLAN)
    changed = Counted(session.counts, weights="another")
    place = cache.key(changed, PROMPT, PLAN).removeprefix("sha256:")
    entries(cache)[0].rename(cache.folder / place)

    found = cache.capture(changed, PROMPT, PLAN)

    assert session.runs == 2
    assert found.identity.weights == "another"


@pytest.mark.parametrize("spoilt", ["tensors.safetensors", "manifest.json"])
def test_a_spoilt_entry_is_made_again(cache, session, spoilt):
    made = cache.capture(session, PROMPT, PLAN)
    file = entries(cache)[0] / spoilt
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))

    again = cache.capture(session, PROMPT, PLAN)

    assert session.runs == 2
    assert same(made, again)
    assert same(made, read_bundle(entries(cache)[0]))


def test_a_lasting_cache_takes_complete_identities_only(tmp_path, session):
    cache = CaptureCache(folder=tmp_path / "captures", scope="s", is_lasting=True)
    session.is_identity_complete = False
    for _ in range(2):
        cache.capture(session, PROMPT, PLAN)
    assert session.runs == 2

    session.is_identity_complete = True
    for _ in range(2):
        cache.capture(session, PROMPT, PLAN)
    assert session.runs == 3


def inputs(number):
    return TokenInputs(name="p", tokens=(number, 1, 2))


def test_the_least_recently_used_are_given_up_beyond_the_limit(tmp_path, session):
    session.width = 4096
    whole = CaptureCache(folder=tmp_path / "captures", scope="s")
    whole.capture(session, inputs(0), PLAN)
    size = sum(each.stat().st_size for each in entries(whole)[0].iterdir())
    cache = CaptureCache(folder=whole.folder, scope="s", max_bytes=int(2.5 * size))
    cache.capture(session, inputs(1), PLAN)
    for place, entry in enumerate(entries(cache)):
        os.utime(entry / "manifest.json", (place, place))
    oldest = entries(cache)[0]
    os.utime(oldest / "manifest.json")

    cache.capture(session, inputs(2), PLAN)

    assert len(entries(cache)) == 2
    assert oldest in entries(cache)


def test_an_entry_in_use_is_not_given_up(tmp_path, session):
    from filelock import FileLock

    whole = CaptureCache(folder=tmp_path / "captures", scope="s")
    whole.capture(session, PROMPT, PLAN)
    entry = entries(whole)[0]

    with FileLock(entry.with_name(f"{entry.name}.lock")):
        CaptureCache(folder=whole.folder, scope="s", max_bytes=0).shrink()
        assert entries(whole) == [entry]
    CaptureCache(folder=whole.folder, scope="s", max_bytes=0).shrink()
    assert entries(whole) == []


def test_what_was_not_used_for_its_lifetime_is_given_up(tmp_path, session):
    cache = CaptureCache(folder=tmp_path / "captures", scope="s", lifetime=3600)
    cache.capture(session, PROMPT, PLAN)
    cache.shrink()
    assert len(entries(cache)) == 1

    os.utime(entries(cache)[0] / "manifest.json", (0, 0))
    cache.shrink()

    assert entries(cache) == []


def test_a_capture_that_is_too_large_or_a_disk_that_refuses_fails_nothing(tmp_path, session):
    small = CaptureCache(folder=tmp_path / "captures", scope="s", max_bytes=10)
    assert small.capture(session, PROMPT, PLAN).tensors
    assert entries(small) == []

    session.run = lambda *_: pytest.fail("ran")
    with pytest.raises(pytest.fail.Exception):
        small.capture(session, PROMPT, PLAN)


def test_two_processes_that_ask_at_once_cost_one_run(cache, session, tmp_path):
    bits = [tmp_path / f"bits{number}" for number in range(2)]
    processes = [
        SPAWN.Process(target=ask, args=(cache.folder, session.counts, each, 1.0)) for each in bits
    ]
    for each in processes:
        each.start()
    for each in processes:
        each.join(WAIT)

    assert [each.exitcode for each in processes] == [0, 0]
    assert session.runs == 1
    assert bits[0].read_bytes() == bits[1].read_bytes() != b""


@pytest.mark.parametrize("death", [die_while_running, die_while_writing])
def test_a_process_that_is_killed_half_way_leaves_nothing_to_believe(cache, session, death):
    process = SPAWN.Process(target=death, args=(cache.folder, session.counts))
    process.start()
    process.join(WAIT)
    assert process.exitcode == -signal.SIGKILL
    left = [each.name for each in entries(cache)]
    assert all(each.startswith(".") for each in left)
    assert bool(left) == (death is die_while_writing)

    made = cache.capture(session, PROMPT, PLAN)

    assert session.runs == 2
    assert [each.name.startswith(".") for each in entries(cache)] == [False]
    assert same(made, read_bundle(entries(cache)[0]))


def test_a_pool_asks_the_disk_before_it_runs_and_never_for_a_fresh_capture(cache, session):
    CapturePool(cache=cache).capture(session, PROMPT, PLAN)
    pool = CapturePool(cache=cache)

    found = pool.capture(session, PROMPT, Plan(stages=("attn_out",), layers=(2,)))
    assert session.runs == 1
    assert list(map(str, found.tensors)) == ["0/2/attn_out"]
    assert not np.asarray(found.logits[0]).flags.writeable

    pool.capture(session, PROMPT, PLAN, is_fresh=True)
    assert session.runs == 2
