"""`command`: a program's exit status, and what it prints, are what the contract expects.

Nothing here asks for permission: the item does, before anything runs.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.canonical import digest, parse_json
from pytest_falsify.checks.verdict import Verdict, inconclusive
from pytest_falsify.contracts.model import CheckSpec, Contract, Target
from pytest_falsify.contracts.shell_words import StringKind, judge_test
from pytest_falsify.engines.process import Finished, run
from pytest_falsify.engines.sources import repository, sources_digest
from pytest_falsify.errors import ContractError
from pytest_falsify.ledger.evidence import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.checks.base import Captures, Compare, Request
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.contracts.model import Falsifier

KIND = "command"
HOST = Target(name="host", model="", line=0)
"""Where a command runs that names no target: this machine, of level ``algorithm``."""
SECONDS = 600
SHOWN_CHARACTERS = 2000
COULD_NOT_START = (126, 127)
"""A shell's own words for a program that cannot be executed, or is not there."""

_EXPECT: Mapping[str, Any] = {
    "description": "what must come of it",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "exit": {
            "description": "the exit status; 0 by default",
            "type": "integer",
            "minimum": 0,
            "maximum": 255,
        },
        "matches": {
            "description": "a regular expression that is found in what it prints",
            "type": "string",
        },
        "lacks": {
            "description": "a regular expression that is not found in what it prints",
            "type": "string",
        },
        "json": {
            "description": "dotted keys into the JSON that it prints, each with the value that "
            "must stand there, or with {min, max}",
            "type": "object",
            "minProperties": 1,
        },
    },
}


class Command:
    """Refuted by another exit status, or by output that is not as expected."""

    kind: ClassVar[str] = KIND
    parameters: ClassVar[Mapping[str, Any]] = {
        "run": {"description": "what a shell runs", "type": "string", "minLength": 1},
        "cwd": {
            "description": "the working directory, relative to the repository; its root by default",
            "type": "string",
        },
        "timeout": {
            "description": "seconds after which it is stopped and nothing is concluded",
            "type": "number",
            "exclusiveMinimum": 0,
        },
        "sources": {
            "description": "globs, relative to the repository, of the files that the command "
            "tries: when one changes, what the command showed is stale",
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
        },
        "expect": _EXPECT,
        "inputs": {"description": "none: a command feeds itself", "type": "array", "maxItems": 0},
    }
    required: ClassVar[tuple[str, ...]] = ("run",)

    def requests(self, claim: Claim) -> tuple[Request, ...]:
        """Ask for nothing, and refuse here what no shell may see.

        Raises:
            ContractError: when the command is prose or waits for somebody to fill it in.
        """
        why = refusal(claim.parameter("run"))
        if why:
            msg = f"{claim.falsifier.id} has a command that is not run: {why}"
            raise ContractError(
                msg,
                path=claim.contract.path,
                line=claim.check.line,
                expected="a command that a shell can run as it stands",
                remedy="fill it in",
            )
        return ()

    def judge(self, claim: Claim, _captures: Captures, _compare: Compare) -> Verdict:
        """Run the command and judge how it ended and what it printed."""
        root = repository(claim.contract.path)
        seconds = claim.parameter("timeout", SECONDS)
        done = run(
            claim.parameter("run"), folder=root / claim.parameter("cwd", "."), seconds=seconds
        )
        expected = claim.parameter("expect", {})
        if done.exit is None:
            return inconclusive(f"the command did not end within {seconds:g} s")
        if done.exit in COULD_NOT_START and done.exit != expected.get("exit", 0):
            return inconclusive(f"the command could not be started: {_last_line(done)}")
        wrong = tuple(disagreements(done, expected))
        return Verdict(
            outcome=Outcome.REFUTED if wrong else Outcome.HELD,
            reasons=wrong or ("the command ended and printed as expected",),
            observed=observed(done),
            coverage={"commands": 1},
            subject=sources_digest(root, claim.parameter("sources", ())),
        )


def with_commands(contract: Contract) -> Contract:
    """Return a contract whose commands can be tried.

    A ``test:`` string that is a command becomes a check, and a command that names no target runs
    on ``host``. The other falsifiers keep the targets that they had.
    """
    if not any(_is_command(each) for each in contract.falsifiers):
        return contract
    names = tuple(contract.targets)
    return replace(
        contract,
        targets={HOST.name: HOST, **contract.targets},
        falsifiers=tuple(_on_host(each, names) for each in contract.falsifiers),
    )


def _is_command(falsifier: Falsifier) -> bool:
    if falsifier.check is not None:
        return falsifier.check.kind == KIND
    return bool(falsifier.test) and judge_test(falsifier.test or "").kind is StringKind.COMMAND


def _on_host(falsifier: Falsifier, names: tuple[str, ...]) -> Falsifier:
    if not _is_command(falsifier):
        return replace(falsifier, targets=falsifier.targets or names)
    check = falsifier.check or CheckSpec(
        kind=KIND, line=falsifier.line, parameters={"run": falsifier.test}
    )
    # A command has no inputs; the digest of its meaning would otherwise cover all of them.
    check = replace(check, parameters={**check.parameters, "inputs": []})
    named = tuple(each for each in falsifier.targets if each in names)
    return replace(falsifier, check=check, targets=named or (HOST.name,))


def refusal(text: str) -> str:
    """Return why a shell may not see a command, or an empty string.

    The writer of ``run:`` has said that it is a command, so its program need not be a known one.
    """
    return judge_test("\n".join(f"env {line}" for line in text.splitlines() if line.strip())).why


def disagreements(done: Finished, expected: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in words, in what a command differs from what is expected of it.

    Raises:
        ContractError: when a regular expression is none.
    """
    wanted = expected.get("exit", 0)
    if done.exit != wanted:
        yield f"the exit status is {done.exit}, {wanted} was expected: {_last_line(done)}"
    if "matches" in expected and not _found(expected["matches"], done.text):
        yield f"nothing that it printed matches `{expected['matches']}`"
    if "lacks" in expected and (found := _found(expected["lacks"], done.text)):
        yield f"it printed `{found}`, which matches `{expected['lacks']}`"
    if "json" in expected:
        yield from _json_disagreements(done.output.text, expected["json"])


def _found(pattern: str, text: str) -> str | None:
    try:
        found = re.search(pattern, text, re.MULTILINE)
    except re.error as error:
        msg = f"`{pattern}` is not a regular expression: {error}"
        raise ContractError(msg, expected="the syntax of Python's `re`") from None
    return found[0] if found else None


def _json_disagreements(text: str, expected: Mapping[str, Any]) -> Iterator[str]:
    try:
        value = parse_json(text)
    except ValueError as error:
        yield f"what it printed is not JSON: {error}"
        return
    for path, wanted in expected.items():
        try:
            found = _at(value, path)
        except (KeyError, IndexError, TypeError, ValueError):
            yield f"there is no `{path}` in the JSON that it printed"
            continue
        if not _agrees(found, wanted):
            yield f"`{path}` is {json.dumps(found)}, {json.dumps(wanted)} was expected"


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def _agrees(found: Any, wanted: Any) -> bool:
    if not (isinstance(wanted, dict) and wanted and wanted.keys() <= {"min", "max"}):
        return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return False
    # Both comparisons are false for a NaN, which is never within limits.
    low, high = wanted.get("min", found), wanted.get("max", found)
    return bool(low <= found <= high)


def observed(done: Finished) -> dict[str, Any]:
    """Return what is kept of a command: how it ended, the end of its output, and all its digest."""
    return {
        "exit": done.exit,
        "output": done.text[-SHOWN_CHARACTERS:],
        "output_bytes": done.output.size + done.errors.size,
        "output_digest": digest([done.output.digest, done.errors.digest]),
    }


def _last_line(done: Finished) -> str:
    lines = (done.errors.text.strip() or done.output.text.strip()).splitlines()
    return lines[-1][:200] if lines else "it printed nothing"
