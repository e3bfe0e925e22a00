import os
from dataclasses import replace

import pytest

from pytest_falsify.contracts import load as door
from pytest_falsify.contracts.cache import ContractCache
from pytest_falsify.contracts.load import load_contract
from pytest_falsify.errors import ContractError


@pytest.fixture
def cache(tmp_path):
    return ContractCache(tmp_path / "cache")


@pytest.fixture
def path(tmp_path, executable):
    path = tmp_path / "claims-v1.yaml"
    path.write_text(executable + "tolerances: [.inf, -1e999, 1e-3]\n")
    return path


@pytest.fixture
def parsed(monkeypatch):
    """Count how often YAML is parsed."""
    calls = []
    parse = door.parse
    monkeypatch.setattr(door, "parse", lambda data, path: calls.append(path) or parse(data, path))
    return calls


def entries(cache):
    return sorted(cache.folder.iterdir())


def test_what_comes_from_the_cache_is_the_same_contract(cache, path, vocabulary, parsed):
    fresh = load_contract(path, vocabulary=vocabulary)
    cold = load_contract(path, vocabulary=vocabulary, cache=cache)
    warm = load_contract(path, vocabulary=vocabulary, cache=cache)
    assert fresh == cold == warm
    assert len(parsed) == 2
    assert len(entries(cache)) == 1


def test_the_same_content_elsewhere_is_found_with_its_own_path(cache, path, vocabulary, parsed):
    load_contract(path, vocabulary=vocabulary, cache=cache)
    other = path.with_name("other.yaml")
    other.write_bytes(path.read_bytes())
    assert load_contract(other, vocabulary=vocabulary, cache=cache).path == other
    assert len(parsed) == 1


def test_changed_content_is_parsed_again(cache, path, vocabulary, parsed):
    load_contract(path, vocabulary=vocabulary, cache=cache)
    path.write_text(path.read_text().replace("they agree", "they differ"))
    changed = load_contract(path, vocabulary=vocabulary, cache=cache)
    assert changed.falsifiers[0].rule == "they differ"
    assert len(parsed) == 2


def test_what_was_valid_under_other_words_is_judged_again(cache, path, vocabulary):
    load_contract(path, vocabulary=vocabulary, cache=cache)
    fewer = replace(vocabulary, checks={"parity": vocabulary.checks["parity"]})
    with pytest.raises(ContractError, match="unknown check kind"):
        load_contract(path, vocabulary=fewer, cache=cache)


def test_a_broken_contract_is_not_kept(cache, path, vocabulary):
    path.write_text("falsification_tests: [3]")
    for _ in range(2):
        with pytest.raises(ContractError):
            load_contract(path, vocabulary=vocabulary, cache=cache)
    assert not cache.folder.exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"[]"])
def test_a_damaged_entry_is_a_miss(cache, path, vocabulary, parsed, damage):
    fresh = load_contract(path, vocabulary=vocabulary, cache=cache)
    (entry,) = entries(cache)
    entry.write_bytes(damage(entry.read_bytes()))
    assert load_contract(path, vocabulary=vocabulary, cache=cache) == fresh
    assert len(parsed) == 2


def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(tmp_path, path, vocabulary):
    (tmp_path / "file").write_text("")
    cache = ContractCache(tmp_path / "file" / "cache")
    assert load_contract(path, vocabulary=vocabulary, cache=cache) is not None


def test_old_entries_are_pruned(cache, path, vocabulary):
    load_contract(path, vocabulary=vocabulary, cache=cache)
    assert cache.prune(days=1) == 0
    (entry,) = entries(cache)
    os.utime(entry, (0, 0))
    assert cache.prune(days=1) == 1
    assert entries(cache) == []
    assert ContractCache(path.parent / "absent").prune() == 0
