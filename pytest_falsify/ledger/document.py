"""The text of a ledger: canonical JSON that a person reviews, read strictly."""

from __future__ import annotations

import gc
import json
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_falsify.canonical import canonical_bytes, canonical_text
from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.block import FalsifierBlock, Ledger
from pytest_falsify.ledger.digests import DISPUTED, Digests
from pytest_falsify.ledger.discharge import NO_DEMANDS, Discharge
from pytest_falsify.ledger.evidence import Evidence
from pytest_falsify.ledger.fields import (
    as_object,
    exact_keys,
    get_list,
    get_object,
    get_text,
    is_digest,
)
from pytest_falsify.ledger.status import judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA = "urn:pytest-falsify:ledger:1"

_CONFLICT_MARKERS = ("<<<<<<< ", "=======\n", ">>>>>>> ")
_RESTORE = "restore the file from git, then run: pytest --falsify --falsify-ledger=update"
_REQUIRED = frozenset({"because", "entry", "evidence", "status", "today"})


def to_text(ledger: Ledger) -> str:
    """Return the one spelling of a ledger."""
    return canonical_text(to_json(ledger))


def to_json(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger as a JSON object, with the status of each block computed."""
    return {
        "contract": ledger.contract,
        "falsifiers": {id_: _block_to_json(block) for id_, block in ledger.blocks.items()},
        "schema": SCHEMA,
    }


def parse(text: str, path: str | None = None, *, any_words: bool = False) -> Ledger:
    """Read what ``to_text`` wrote, and believe none of it that can be computed.

    Args:
        text: the content of the file.
        path: where it is, for messages.
        any_words: accept another wording of ``because``, as an older version may have written it.

    Raises:
        LedgerError: with path and line, when it is not a ledger or says what its evidence does not
            support.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if _has_escapes(text):  # half of a surrogate pair could not be written again
            canonical_bytes(value)
    except json.JSONDecodeError as error:
        _refuse_conflicts(text, path)
        msg = f"the ledger is not JSON: {error.msg}"
        raise LedgerError(msg, path=path, line=error.lineno, remedy=_RESTORE) from None
    except ValueError as error:
        msg = f"the ledger holds what cannot be written: {error}"
        raise LedgerError(msg, path=path, line=1, remedy=_RESTORE) from None
    except LedgerError as error:
        raise _placed(error, text, path) from None
    except RecursionError:
        msg = "the ledger is nested too deeply"
        raise LedgerError(msg, path=path, line=1, remedy=_RESTORE) from None
    return _from_json(value, text, path, any_words=any_words)


@contextmanager
def many_ledgers() -> Iterator[None]:
    """Keep Python's collector of cycles still while many ledgers are read.

    They hold no cycles, and looking for some again and again while they grow costs a quarter of
    the time. What was read counts as old afterwards, so it is looked through with all else that
    lives long, and not twice before.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # else somebody's frozen objects would thaw
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()


def _block_to_json(block: FalsifierBlock) -> dict[str, Any]:
    status, because = judge(block)
    value: dict[str, Any] = {
        "because": because,
        "entry": block.entry,
        "evidence": [_evidence_to_json(each, block.entry) for each in block.evidence],
        "status": status.value,
        "today": {name: digests.to_json() for name, digests in block.today.items()},
    }
    demands = block.discharge.to_json()
    return value | {"discharge": demands} if demands else value


def _evidence_to_json(evidence: Evidence, entry: str) -> dict[str, Any]:
    value = evidence.to_json()
    del value["falsifier"]
    if evidence.entry == entry:
        del value["entry"]
    return value


def _from_json(value: object, text: str, path: str | None, *, any_words: bool) -> Ledger:
    try:
        data = as_object(value, "the ledger")
        exact_keys(data, "the ledger", required={"contract", "falsifiers", "schema"})
        if data["schema"] != SCHEMA:
            msg = f"the schema of the ledger is {data['schema']!r}"
            raise LedgerError(msg, expected=SCHEMA)  # noqa: TRY301 - one place adds path and line
        contract = get_text(data, "contract", "the ledger")
        falsifiers = get_object(data, "falsifiers", "the ledger")
    except LedgerError as error:
        raise _placed(error, text, path) from None
    blocks = {}
    for id_, each in falsifiers.items():
        try:
            blocks[id_] = _block_from_json(id_, each, any_words=any_words)
        except LedgerError as error:
            raise _placed(error, text, path, id_) from None
    return Ledger(contract=contract, blocks=blocks)


def _block_from_json(id_: str, value: object, *, any_words: bool) -> FalsifierBlock:
    data = as_object(value, id_)
    exact_keys(data, id_, required=_REQUIRED, optional={"discharge"})
    entry = get_text(data, "entry", id_)
    if entry != DISPUTED and not is_digest(entry):
        msg = f"the entry of {id_} is {entry!r}"
        raise LedgerError(msg, expected="sha256: and 64 hexadecimal digits")
    evidence = [_evidence_from_json(each, id_, entry) for each in get_list(data, "evidence", id_)]
    today = get_object(data, "today", id_)
    block = FalsifierBlock(
        entry=entry,
        today={name: Digests.from_json(each) for name, each in today.items()},
        evidence=tuple(evidence),
        discharge=_discharge(id_, data),
    )
    _refuse_repetition(id_, evidence)
    _refuse_assertion(id_, data, block, any_words=any_words)
    return block


def _evidence_from_json(value: object, id_: str, entry: str) -> Evidence:
    data = as_object(value, "evidence")
    data.setdefault("entry", entry)
    data["falsifier"] = id_
    return Evidence.from_json(data)


def _discharge(id_: str, data: dict[str, Any]) -> Discharge:
    if "discharge" not in data:
        return NO_DEMANDS
    return Discharge.from_mapping(get_object(data, "discharge", id_))


def _refuse_repetition(id_: str, evidence: Sequence[Evidence]) -> None:
    if len({each.id for each in evidence}) < len(evidence):
        msg = f"{id_} has the same evidence twice"
        raise LedgerError(msg, expected="each piece of evidence once")


def _refuse_assertion(
    id_: str, data: dict[str, Any], block: FalsifierBlock, *, any_words: bool
) -> None:
    status, because = judge(block)
    for name, computed in (("status", status.value), ("because", because)):
        if data[name] != computed and not (any_words and name == "because"):
            msg = f"the {name} of {id_} is {data[name]!r}, which is not what its evidence says"
            raise LedgerError(msg, expected=repr(computed))


def _has_escapes(text: str) -> bool:
    """Whether a character is told by its number; one letter is found faster than two."""
    return "\\" in text and "\\u" in text


def _refuse_conflicts(text: str, path: str | None) -> None:
    for marker in _CONFLICT_MARKERS:
        at = f"\n{text}".find(f"\n{marker}")
        if at >= 0:
            msg = "the ledger holds the conflict markers of a merge"
            raise LedgerError(
                msg,
                path=path,
                line=text.count("\n", 0, at) + 1,
                remedy="take one side with git checkout --ours or --theirs, then run it again",
            )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    counts = Counter(key for key, _ in pairs)
    msg = f"the key {counts.most_common(1)[0][0]!r} stands twice in one object"
    raise LedgerError(msg, expected="each key once")


def _refuse_constant(name: str) -> NoReturn:
    msg = f"the ledger holds {name}, which is not JSON"
    raise LedgerError(msg, expected="finite numbers")


def _placed(error: LedgerError, text: str, path: str | None, id_: str | None = None) -> LedgerError:
    """The error with its place: the line where the block of a falsifier begins."""
    at = text.find(f"\n    {json.dumps(id_, ensure_ascii=False)}: {{") + 1 if id_ else 0
    return LedgerError(
        error.what,
        path=path,
        line=text.count("\n", 0, at) + 1,
        expected=error.expected,
        remedy=error.remedy or _RESTORE,
    )
