"""The command about one prompt of many: what each side answers to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from pytest_falsify.canonical import canonical_text
from pytest_falsify.errors import ContractError
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.prompt_outcome import PromptOutcome
    from pytest_falsify.checks.survey import JudgesPrompts

AGREES, DIFFERS, UNDECIDED = 0, 1, 2
BEST = 3


@click.command()
@click.argument("falsifier", metavar="CONTRACT::ID")
@click.argument("prompt", metavar="PROMPT")
@click.option("--target", help="where, if the falsifier has more targets than one")
@click.option("--allow-commands", is_flag=True, help="run the commands that its captures name")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
def prompt(
    falsifier: str,
    prompt: str,
    target: str | None,
    allow_commands: bool,  # noqa: FBT001
    style: str,
) -> None:
    """Run one PROMPT of a falsifier of kind `rate` again: contracts/c.yaml::FALSIFY-X-001 docs-7.

    Nothing of it becomes evidence. Status 0: the subject answers as the oracle does. 1: it does
    not. 2: it could not be told.
    """
    from pytest_falsify.cli.claims import claim_named

    claim = claim_named(falsifier, target)
    check = _check(claim)
    runs = _runs(claim, check, prompt, may_run_commands=allow_commands)
    outcome = check.outcome(claim, prompt, runs)
    body = {"roles": {role: _answer(each) for role, each in runs.items()}, **_mark(outcome)}
    is_json = style == "json"
    click.echo(canonical_text(body) if is_json else "\n".join(_text(body)), nl=not is_json)
    statuses = {False: AGREES, True: DIFFERS, None: UNDECIDED}
    sys.exit(statuses[outcome.subject.differs])


def _check(claim: Claim) -> JudgesPrompts:
    from pytest_falsify.checks.registry import check
    from pytest_falsify.checks.survey import JudgesPrompts

    kind: object = check(claim.check.kind)
    if not isinstance(kind, JudgesPrompts):
        msg = f"{claim.falsifier.id} is of kind `{claim.check.kind}`, which sees no dataset"
        raise ContractError(
            msg, path=claim.contract.path, line=claim.falsifier.line, expected="kind `rate`"
        )
    return kind


def _runs(
    claim: Claim, check: JudgesPrompts, name: str, *, may_run_commands: bool
) -> dict[str, Capture]:
    """Run one prompt on each side, and return the captures by role."""
    from pytest_falsify.captures.pool import token_inputs
    from pytest_falsify.captures.record import record
    from pytest_falsify.checks.survey import asked_of
    from pytest_falsify.cli.claims import blocked, maker_of

    known = {each.id: each for each in asked_of(claim, check)}
    if name not in known:
        msg = f"no dataset of {claim.falsifier.id} has a prompt `{name}`"
        expected = f"one of its {len(known)}: {', '.join(list(known)[:BEST])}, ..."
        raise ContractError(msg, path=claim.contract.path, expected=expected)
    make, found = maker_of(claim, may_run_commands=may_run_commands), {}
    for request in known[name].requests:
        with blocked():
            session = make.session(request.capture)
        inputs = token_inputs(known[name].spec, session, claim.contract.path.parent)
        found[request.role] = record(session, inputs, request.plan)
    return found


def _answer(capture: Capture) -> dict[str, Any]:
    """Return what a run answers: its tokens, and the best candidates of the first of them."""
    from pytest_falsify.checks.served import told
    from pytest_falsify.checks.verdict import finite

    candidates = [
        {"logprob": finite(logprob), "token": token}
        for each in told(capture, 0, 1)
        for token, logprob in zip(each.tokens[:BEST], each.logprobs, strict=False)
    ]
    return {
        "candidates": candidates,
        "prompt": list(capture.inputs.tokens),
        "tokens": list(capture.continuation),
    }


def _mark(outcome: PromptOutcome) -> dict[str, Any]:
    mark = outcome.subject
    return {
        "at": mark.at if mark.differs else None,
        "differs": mark.differs,
        "id": outcome.id,
        "why": outcome.lack,
    }


def _text(body: Mapping[str, Any]) -> Iterator[str]:
    words = {True: "differs", False: "agrees", None: f"cannot be judged: {body['why']}"}
    place = f" at token {body['at'] + 1}" if body["differs"] else ""
    yield f"{body['id']}: the subject {words[body['differs']]}{place}"
    for role, each in body["roles"].items():
        best = ", ".join(f"{one['token']} ({one['logprob']:.3g})" for one in each["candidates"])
        tokens = number_of(len(each["prompt"]), "token")
        yield f"  {role:<8} of {tokens}, the next: {best or 'not told'}"
        if each["tokens"]:
            yield f"  {'':<8} decoded: {' '.join(map(str, each['tokens']))}"


COMMANDS = (prompt,)
