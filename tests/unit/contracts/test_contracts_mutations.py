"""Five thousand broken contracts: each is an error with a line or a result, and soon."""

import json
import random
import time
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_falsify.contracts.digest import entry_digest
from pytest_falsify.contracts.load import load_contract
from pytest_falsify.contracts.loader import parse
from pytest_falsify.errors import ContractError

SLOWEST_SECONDS = 2.0
"""Of this thread's own processor time, which a busy neighbour leaves alone; 0.012 were seen."""
PIECES = [
    *(b"[", b"]", b"{", b"}", b": ", b"- ", b"? ", b"&a ", b"*a", b"!!int ", b"|", b">", b"<<: "),
    *(b'"', b"'", b"\t", b"\n", b"\r", b"\0", b"\xff", b"\xc3", b"%", b"@", b"`", b"#", b"~"),
    *(b"---\n", b"...\n", b"1e999", b".inf", b"9" * 5000, b"[" * 200, b"\xef\xbb\xbf"),
    *(b"\xc2\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"null", b"0x", b"0o8", b"- " * 100),
]
VALUES = [None, True, 0, -1, 1.5, 1e400, "", "x", "a b", 10**30, [], {}, [[]], [None], {"a": None}]
KEYS = ["check", "id", "targets", "kind", "falsification", "stages", "inputs", "layers", "x y"]


def cut_and_pasted(data, rng):
    text = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at, other = rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)
        match rng.randrange(4):
            case 0:
                del text[at : at + rng.choice([1, 1, 10, 200])]
            case 1:
                text[at:at] = rng.choice(PIECES)
            case 2:
                text[at : at + 1] = bytes([rng.randrange(256)])
            case _:
                text[at:at] = text[other : other + rng.choice([5, 50, 500])]
    return bytes(text)


def paths(value, at=()):
    yield at
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from paths(inner, (*at, key))


def rearranged(value, rng):
    value = deepcopy(value)
    for _ in range(rng.choice([1, 1, 2, 4])):
        *above, last = rng.choice([at for at in paths(value) if at] or [("a",)])
        around = value
        for step in above:
            around = around[step]
        match rng.randrange(3):
            case 0:
                around[last] = rng.choice(VALUES)
            case 1 if last in around or isinstance(last, int):
                del around[last]
            case 2 if isinstance(around, dict):
                around[rng.choice(KEYS)] = around.get(last)
    return json.dumps(value).replace("Infinity", ".inf").encode()


@pytest.fixture
def survives(tmp_path, vocabulary):
    """Load bytes; anything but a contract, nothing, or an error with a line is a failure."""
    path = tmp_path / "mutant.yaml"

    def load(data):
        path.write_bytes(data)
        start = time.thread_time()
        try:
            contract = load_contract(path, vocabulary=vocabulary)
        except ContractError as error:
            outcome = "refused" if error.line else f"no line: {error}"
        else:
            outcome = "left alone" if contract is None else "read"
            for falsifier in contract.falsifiers if contract else ():
                entry_digest(contract, falsifier)
        assert not outcome.startswith("no line"), outcome
        assert time.thread_time() - start < SLOWEST_SECONDS
        return outcome

    return load


def test_bytes_changed_at_random(survives, executable):
    rng = random.Random(3)
    seen = {survives(cut_and_pasted(executable.encode(), rng)) for _ in range(1500)}
    assert seen == {"refused", "left alone", "read"}


def test_values_changed_at_random(survives, executable):
    rng = random.Random(5)
    good = parse(executable.encode(), Path("c.yaml")).data
    seen = {survives(rearranged(good, rng)) for _ in range(1500)}
    assert seen == {"refused", "left alone", "read"}


def test_contracts_of_the_field_changed_at_random(survives, corpus):
    rng = random.Random(7)
    sources = [path.read_bytes() for path in corpus if path.stat().st_size < 20_000]
    for _ in range(1500):
        survives(cut_and_pasted(rng.choice(sources), rng))


_JSON = st.recursive(
    st.sampled_from([*VALUES, *KEYS, "all", "0..2", "parity", "subject", "tiny", "ids"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=10,
)
_SECTIONS = ("metadata", "equations", "proof_obligations", "targets", "captures", "inputs")


@settings(max_examples=500)
@given(
    st.dictionaries(st.sampled_from((*_SECTIONS, "falsification", "require")), _JSON),
    st.lists(st.dictionaries(st.sampled_from((*KEYS, "binds_to", "require")), _JSON), max_size=3),
)
def test_sections_made_up(tmp_path_factory, sections, tests):
    from pytest_falsify.contracts.vocabulary import Vocabulary

    data = json.dumps({**sections, "falsification_tests": tests}).replace("Infinity", ".inf")
    path = tmp_path_factory.getbasetemp() / "made-up.yaml"
    path.write_text(data)
    words = Vocabulary(checks={"parity": {}}, engines={"x": {}}, stage=str)
    try:
        contract = load_contract(path, vocabulary=words)
        found = len(contract.falsifiers)
    except ContractError as error:
        found = len(tests) if error.line == 1 else -1
    assert found >= len(tests)
