"""Commands about the routing of mixtures of experts: record a run, derive from it, look at it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_falsify.canonical import canonical_text
from pytest_falsify.errors import ContractError
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_falsify.cli.capturing import Wanted
    from pytest_falsify.routing.difference import RoutingDifference
    from pytest_falsify.routing.run import Run
    from pytest_falsify.routing.trace import Routing

_RUN = click.Path(path_type=Path)
PROFILES = ("routing/v1", "full_run/v0.1.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What ``inspect`` is asked of a run.

    Attributes:
        plot: the picture to be.
        against: the run that it is compared with, as a subject with its oracle.
        control: the run whose difference from that is the noise.
        anywhere: take a run that lies in a folder of another name, or beside other files.
    """

    path: Path
    is_json: bool
    plot: Path | None
    against: Path | None
    control: Path | None
    anywhere: bool


@click.command()
@click.argument("model")
@click.option("--runs", default="runs", show_default=True, type=_RUN, help="the folder of runs")
@click.option("--run-id", required=True, help="names the run's folder; / groups runs")
@click.option("--text", help="what the model is fed")
@click.option("--tokens", help="token ids instead: 3838,374,220")
@click.option("--decode-steps", type=click.IntRange(min=0), default=16, show_default=True)
@click.option("--profile", type=click.Choice(PROFILES), default=PROFILES[0], show_default=True)
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="of the engine")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or auto")
@click.option("--revision", help="of a model in the hub's cache")
def record(  # noqa: PLR0917 - click passes them by name
    model: str,
    runs: Path,
    run_id: str,
    text: str | None,
    tokens: str | None,
    decode_steps: int,
    profile: str,
    options: Sequence[str],
    device: str,
    revision: str | None,
) -> None:
    """Run MODEL, a mixture of experts, and keep where its routers sent every token."""
    from pytest_falsify.captures.new_folder import must_be_free
    from pytest_falsify.cli.capturing import Wanted
    from pytest_falsify.routing.captured import STAGES
    from pytest_falsify.routing.naming import run_folder

    if (text is None) == (tokens is None):
        msg = "give one of --text and --tokens"
        raise ContractError(msg, expected="what the model is fed")
    must_be_free(run_folder(runs, run_id))
    wanted = Wanted(
        model=model,
        revision=revision,
        device=device,
        engine="transformers",
        options=tuple(options),
        fed=("text", text) if text is not None else ("tokens", tokens),
        stages=",".join(STAGES),
        layers="all",
        positions="all",
        decode_steps=decode_steps,
        forced=None,
    )
    routing = _recorded(wanted, run_id)
    folder = _write(routing, runs, profile)
    tokens = number_of(len(routing.tokens), "token")
    click.echo(f"{folder}: {tokens}, {number_of(len(routing.layers), 'routed layer')}")


def _recorded(wanted: Wanted, run_id: str) -> Routing:
    from pytest_falsify.cli.capturing import make
    from pytest_falsify.routing.captured import facts_of_capture, routing_of
    from pytest_falsify.routing.naming import now

    made = make(wanted)
    facts = facts_of_capture(made, run_id=run_id, created_at=now())
    kind, fed = wanted.fed
    facts = replace(
        facts,
        model_id=_name(wanted),
        tokenizer_id=_name(wanted),
        prompt=fed if kind == "text" else "",
    )
    routing = routing_of(made, facts)
    return replace(routing, tokens=replace(routing.tokens, texts=_texts(wanted, routing)))


def _name(wanted: Wanted) -> str:
    return Path(wanted.model).name if Path(wanted.model).is_dir() else wanted.model


def _texts(wanted: Wanted, routing: Routing) -> tuple[str, ...]:
    """Return each token's text; empty where the model has no tokenizer."""
    import transformers

    from pytest_falsify.contracts.model import Target
    from pytest_falsify.engines.model_files import model_folder

    target = Target(name="", model=wanted.model, line=0, revision=wanted.revision)
    try:
        folder = model_folder(target, Path.cwd())
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError):
        return routing.tokens.texts
    return tuple(tokenizer.decode([each]) for each in routing.tokens.ids.tolist())


def _write(routing: Routing, runs: Path, profile: str) -> Path:
    from pytest_falsify.routing.full_run import write_full_run
    from pytest_falsify.routing.routing_v1 import write_routing

    if profile == PROFILES[0]:
        return write_routing(routing, runs)
    return write_full_run(routing, runs)


@click.command()
@click.argument("run", type=_RUN)
@click.option(
    "--config",
    type=click.Choice(["experts", "exact"]),
    default="experts",
    show_default=True,
    help="what makes two tokens one motif: the set of their experts, or every bit",
)
def derive(run: Path, config: str) -> None:
    """Derive motifs, co-activation and a null control from RUN, and put them beside it."""
    from pytest_falsify.routing.add_derived import add_derived

    found = add_derived(run, config)
    ledger = found.derived["motif_ledger"]["ledger_payload"]
    coherence = found.derived["contingency"]["contingency_payload"]["coherence"]
    click.echo(f"{run}: {number_of(ledger['global_motifs'], 'motif')} of whole tokens")
    if coherence["observed"] is not None:
        largest = coherence["scrambled"]["largest"]
        told = f"{coherence['observed']:.3g}, scrambled at most {largest:.3g}"
        click.echo(f"  fit: {coherence['fit']} ({coherence['measure']}: {told})")


def inspect_run(asked: Asked) -> None:
    """Show a run, once every rule was found kept; draw it, and compare it with another."""
    from pytest_falsify.report.routing import (
        difference_json,
        difference_lines,
        routing_json,
        routing_lines,
    )
    from pytest_falsify.report.routing_picture import write_routing_picture
    from pytest_falsify.routing.objections import objections
    from pytest_falsify.routing.run import read_run

    run = read_run(asked.path, in_place=not asked.anywhere)
    found = _difference(run, asked)
    if asked.is_json:
        body = routing_json(run) | ({} if found is None else {"against": difference_json(found)})
        click.echo(canonical_text(body), nl=False)
    else:
        lines = [*routing_lines(run), *(["", *difference_lines(found)] if found else [])]
        click.echo("\n".join(lines))
    if asked.plot is not None:
        write_routing_picture(run.routing, asked.plot, found)
        click.echo(f"drawn: {asked.plot}", err=True)
    if found is not None:
        sys.exit(1 if objections(found) else 0)


def _difference(run: Run, asked: Asked) -> RoutingDifference | None:
    from pytest_falsify.routing.difference import compare_routings
    from pytest_falsify.routing.run import read_run

    if asked.against is None:
        if asked.control is not None:
            msg = "--control is the noise of a comparison, and there is none"
            raise ContractError(msg, remedy="--against ORACLE")
        return None
    oracle = read_run(asked.against, in_place=not asked.anywhere).routing
    control = None
    if asked.control is not None:
        control = read_run(asked.control, in_place=not asked.anywhere).routing
    return compare_routings(run.routing, oracle, control)


COMMANDS = (record, derive)
