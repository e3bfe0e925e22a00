"""Commands that name the guilty operation: of two captures, or of a contract's falsifier."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_falsify.canonical import canonical_text
from pytest_falsify.cli.claims import blocked, claim_named, maker_of
from pytest_falsify.errors import CaptureError, ContractError, FalsifyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.claim import Claim
    from pytest_falsify.checks.verdict import Verdict
    from pytest_falsify.contracts.model import Contract, Falsifier
    from pytest_falsify.localize.bisection import Bisection
    from pytest_falsify.localize.chain import Chain
    from pytest_falsify.localize.evaluation import Evaluator

NOBODY, GUILTY, UNDECIDED = 0, 1, 2
SHARED = ("subject", "oracle", "noise", "layers", "inputs", "align", "decode_steps")
"""What a falsifier of another kind and a localisation have in common."""
_CAPTURE = click.Path(path_type=Path)
_style = click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
_full = click.option("-v", "--verbose", "is_full", is_flag=True, help="show every operation")
_plot = click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="draw own errors by layer and stage: an .svg",
)


@click.command()
@click.argument("subject", type=_CAPTURE)
@click.argument("oracle", type=_CAPTURE)
@click.option("--control", type=_CAPTURE, help="known-good code at the subject's precision")
@click.option(
    "--model",
    help="a folder with the weights that the subject declares: every operation is done again",
)
@click.option("--dtype", help="the precision at which the subject computes; that of its tensors")
@click.option("--stages", help="names with commas between: where the classical chain goes along")
@click.option("--layer", type=click.IntRange(min=0), default=0, help="the layer of --stages")
@click.option("--cosine", type=float, default=0.999, show_default=True, help="its threshold")
@_style
@_full
@_plot
@click.option("--ignore-unknown", is_flag=True, help="leave out tensors whose names are no sites")
def bisect(  # noqa: PLR0917 - click passes them by name
    subject: Path,
    oracle: Path,
    control: Path | None,
    model: str | None,
    dtype: str | None,
    stages: str | None,
    layer: int,
    cosine: float,
    style: str,
    is_full: bool,  # noqa: FBT001
    plot: Path | None,
    ignore_unknown: bool,  # noqa: FBT001
) -> None:
    """Say where the captures SUBJECT and ORACLE part, and which operation is guilty of it.

    With --model every operation of the subject is done again on the subject's own inputs. Status 0:
    they do not part. 1: they do. 2: it could not be told.
    """
    from pytest_falsify.cli.comparing import read_sides
    from pytest_falsify.localize.bisection import bisect as bisected
    from pytest_falsify.localize.bisection import layer_chain
    from pytest_falsify.stages.vocabulary import canonical

    paths = {"subject": subject, "oracle": oracle} | ({"control": control} if control else {})
    captures, notes = read_sides(paths, ignore_unknown=ignore_unknown)
    _must_show_inside(captures)
    names = [canonical(each) for each in stages.split(",")] if stages else []
    found = bisected(
        captures["subject"],
        captures["oracle"],
        cosine=cosine,
        control=captures.get("control"),
        evaluator=_evaluator(model, dtype, captures["subject"]) if model else None,
        along=layer_chain(names, layer),
    )
    if style == "json":
        click.echo(canonical_text(_bisection_json(found, notes)), nl=False)
    else:
        click.echo("\n".join(_bisection_text(found, cosine, notes, is_full=is_full)))
    _draw({"": found.chain} if found.chain else {}, plot)
    sys.exit(_status(found))


@click.command()
@click.argument("falsifier", metavar="CONTRACT::ID")
@click.option("--target", help="where, if the falsifier has more targets than one")
@click.option("--graft", is_flag=True, help="prove it: put the oracle's tensors into the subject")
@click.option("--allow-commands", is_flag=True, help="run the commands that its captures name")
@_style
@_full
@_plot
def localize(  # noqa: PLR0917 - click passes them by name
    falsifier: str,
    target: str | None,
    graft: bool,  # noqa: FBT001
    allow_commands: bool,  # noqa: FBT001
    style: str,
    is_full: bool,  # noqa: FBT001
    plot: Path | None,
) -> None:
    """Name the guilty operation behind a falsifier: contracts/c.yaml::FALSIFY-X-001.

    It may be of any kind that has a subject and an oracle. Status 0: what the falsifier says of the
    guilty holds; for other kinds, nobody is guilty. 1: it does not. 2: it could not be told.
    """
    from pytest_falsify.ledger.evidence import Outcome

    claim = _claim(falsifier, target, graft=graft)
    verdict = _judged(claim, may_run_commands=allow_commands)
    if style == "json":
        click.echo(canonical_text(_verdict_json(verdict)), nl=False)
    else:
        click.echo("\n".join(_verdict_text(verdict, is_full=is_full)))
    _draw(verdict.chains, plot)
    statuses = {Outcome.HELD: NOBODY, Outcome.REFUTED: GUILTY}
    sys.exit(statuses.get(verdict.outcome, UNDECIDED))


def _evaluator(model: str, dtype: str | None, subject: Capture) -> Evaluator:
    from pytest_falsify.checks.localize import dtype_of
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.registry import engine
    from pytest_falsify.localize.evaluation import Evaluator

    folder = str(Path(model).resolve()) if Path(model).is_dir() else model
    spec = CaptureSpec(name="model", engine="transformers", line=0)
    session: Any = engine("transformers").load(
        Target(name=model, model=folder, line=0), spec, root=Path.cwd(), device="cpu"
    )
    return Evaluator.of(session.model, dtype or dtype_of(subject))


def _status(found: Bisection) -> int:
    if found.chain is not None:
        if found.chain.guilty:
            return GUILTY
        return UNDECIDED if found.chain.undecided or not found.chain.links else NOBODY
    if found.divergence is not None or found.straddle.pairs or found.straddle.is_first_beyond:
        return GUILTY
    return UNDECIDED if found.straddle.missing else NOBODY


def _bisection_text(
    found: Bisection, cosine: float, notes: tuple[str, ...], *, is_full: bool
) -> list[str]:
    from pytest_falsify.report.chain import chain_table, conclusion

    lines = []
    if found.chain is not None:
        lines += [conclusion(found.chain), "", *chain_table(found.chain, is_full=is_full), ""]
    elif found.divergence is not None:
        lines.append(str(found.divergence))
    lines.append(f"cosine {cosine:g}: {found.straddle}")
    if found.chain is None:
        lines.append("this is where drift is seen; with --model the guilty operation is named")
    return [*lines, *(f"note: {each}" for each in notes)]


def _bisection_json(found: Bisection, notes: tuple[str, ...]) -> dict[str, Any]:
    from pytest_falsify.report.chain import chain_json

    return {
        "chain": None if found.chain is None else chain_json(found.chain),
        "divergence": None if found.divergence is None else str(found.divergence.site),
        "notes": list(notes),
        "straddle": {
            "missing": [str(each) for each in found.straddle.missing],
            "narrows": found.straddle.narrows,
            "pairs": [[str(one), str(other)] for one, other in found.straddle.pairs],
        },
    }


def _claim(name: str, target: str | None, *, graft: bool) -> Claim:
    named = claim_named(name, target)
    return replace(named, falsifier=_as_localize(named.contract, named.falsifier, graft=graft))


def _as_localize(contract: Contract, falsifier: Falsifier, *, graft: bool) -> Falsifier:
    check = falsifier.check
    if check is None or not {"subject", "oracle"} <= set(check.parameters):
        msg = f"{falsifier.id} has no subject and oracle to localise between"
        raise ContractError(msg, path=contract.path, line=falsifier.line)
    parameters = dict(check.parameters)
    if check.kind != "localize":
        parameters = {name: each for name, each in parameters.items() if name in SHARED}
        parameters |= {"expect": {"guilty": "none"}, "stages": "all"}
    if graft:
        parameters["graft"] = True
    return replace(falsifier, check=replace(check, kind="localize", parameters=parameters))


def _judged(claim: Claim, *, may_run_commands: bool) -> Verdict:
    """Make the captures of a claim and judge it, as an item of pytest would.

    Raises:
        FalsifyError: when a capture cannot be made, or is what a server tells.
    """
    from pytest_falsify._maker import requested
    from pytest_falsify.checks.aligning import aligned_captures
    from pytest_falsify.checks.localize import Localize
    from pytest_falsify.checks.served import asks_server
    from pytest_falsify.compare.comparison import compare_captures

    check = Localize()
    make = maker_of(claim, may_run_commands=may_run_commands)
    requests = check.requests(claim)
    for each in requests:
        if asks_server(claim.contract.captures[each.capture]):
            raise _shows_nothing(each.capture).located(claim.contract.path, claim.falsifier.line)
    with blocked():
        captures = requested(make, requests)
        sessions = {name: make.session(name) for name in check.sessions(claim)}
    _must_show_inside({request.capture: each for request, each in captures.items()})
    aligned = aligned_captures(claim, captures)
    return check.judge_with(claim, aligned, compare_captures, sessions)


def _must_show_inside(captures: Mapping[str, Capture]) -> None:
    """Refuse what a server told, of which no operation can be done again."""
    for name, each in captures.items():
        if each.shortlists is not None:
            raise _shows_nothing(name)


def _shows_nothing(name: str) -> FalsifyError:
    from pytest_falsify.checks.served import judging_kinds

    msg = f"capture `{name}` is what a server tells, which shows nothing from inside"
    kinds = ", ".join(judging_kinds())
    return CaptureError(
        msg,
        expected="captures of engines that show their stages, as transformers and llama.cpp do",
        remedy=f"localise with what the server runs, run here; servers are judged by {kinds} and "
        "rate (docs/served.md)",
    )


def _verdict_text(verdict: Verdict, *, is_full: bool) -> list[str]:
    from pytest_falsify.report.chain import chain_table

    lines = [f"{verdict.outcome.value}: {'; '.join(verdict.reasons)}"]
    for site, share in verdict.observed.get("grafts", {}).items():
        lines.append(
            f"  the oracle's {site} in the subject takes {share:.1%} of the difference of the "
            "logits away"
        )
    for label, chain in verdict.chains.items():
        lines += ["", f"input `{label}`", *chain_table(chain, is_full=is_full)]
    return lines


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    from pytest_falsify.report.chain import chain_json

    return {
        "observed": dict(verdict.observed),
        "outcome": verdict.outcome.value,
        "reasons": list(verdict.reasons),
        "inputs": {label: chain_json(each) for label, each in verdict.chains.items()},
    }


def _draw(chains: Any, plot: Path | None) -> None:
    from pytest_falsify.report.grid import write_grid

    if plot is None:
        return
    chain: Chain | None = next(iter(chains.values()), None)
    if chain is None:
        msg = "there is nothing to draw without operations that were done again"
        raise ContractError(msg, remedy="give --model, a folder with the subject's weights")
    write_grid(chain, plot)
    click.echo(f"drawn: {plot}", err=True)


COMMANDS = (bisect, localize)
