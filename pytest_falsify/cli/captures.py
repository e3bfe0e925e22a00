"""Commands about captures: make one, look at one, compare two."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_falsify.canonical import canonical_text
from pytest_falsify.errors import ContractError
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_CAPTURE = click.Path(path_type=Path)
_PICTURE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("subject", type=_CAPTURE)
@click.argument("oracle", type=_CAPTURE)
@click.option("--control", type=_CAPTURE, help="known-good code at the subject's precision")
@click.option(
    "--expect",
    "expectations",
    multiple=True,
    metavar="YAML",
    help="what is allowed: '{rel_l2: {max: 1e-3}}' or a YAML file; may be given more than once",
)
@click.option(
    "--align",
    "alignments",
    multiple=True,
    metavar="YAML",
    help="steps that bring a side into shape: '{subject: [{stages: [q_post_rope], order: "
    "{dims: h t d}}]}' or a YAML file; may be given more than once",
)
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@click.option("-v", "--verbose", "is_full", is_flag=True, help="show every site")
@click.option("--only-shared", is_flag=True, help="leave out the sites that one side lacks")
@click.option("--ignore-unknown", is_flag=True, help="leave out tensors whose names are no sites")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="draw divergence by depth: an .svg, or a .png by matplotlib",
)
def compare(  # noqa: PLR0917 - click passes them by name
    subject: Path,
    oracle: Path,
    control: Path | None,
    expectations: Sequence[str],
    alignments: Sequence[str],
    style: str,
    is_full: bool,  # noqa: FBT001
    only_shared: bool,  # noqa: FBT001
    ignore_unknown: bool,  # noqa: FBT001
    plot: Path | None,
) -> None:
    """Compare the captures SUBJECT and ORACLE site by site.

    Each is a bundle, an APRT tree, or a folder of safetensors or npy. Status 0: within what is
    allowed (bit-equal, if nothing says what is). 1: beyond. 2: it could not be told.
    """
    from pytest_falsify.checks.side_by_side import conclude, shared
    from pytest_falsify.cli.comparing import (
        as_json,
        read_alignment,
        read_expectations,
        read_sides,
        rendered,
    )

    paths = {"subject": subject, "oracle": oracle} | ({"control": control} if control else {})
    expect = read_expectations(expectations)
    align = read_alignment(alignments)
    captures, notes = read_sides(paths, ignore_unknown=ignore_unknown, align=align)
    if only_shared:
        cut, left_out = shared(*captures.values())
        captures = dict(zip(captures, cut, strict=True))
        sites = number_of(left_out, "site that one side lacks is", "sites that one side lacks are")
        notes = (*notes, f"{sites} left out")
    conclusion = conclude(
        captures["subject"], captures["oracle"], control=captures.get("control"), expect=expect
    )
    if style == "json":
        click.echo(canonical_text(as_json(conclusion, paths, captures, notes)), nl=False)
    else:
        click.echo("\n".join(rendered(conclusion, paths, notes, is_full=is_full)))
    if plot is not None:
        _draw(conclusion, plot)
    sys.exit(conclusion.standing.value)


def _draw(conclusion: Any, plot: Path) -> None:
    from pytest_falsify.report.picture import write_picture

    write_picture(conclusion.judged, plot)
    click.echo(f"drawn: {plot}", err=True)


@click.command()
@click.argument("model")
@click.option("--out", required=True, type=_CAPTURE, help="the folder to be")
@click.option("--text", help="what the model is fed")
@click.option("--tokens", help="token ids instead: 3838,374,220")
@click.option("--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="a text")
@click.option("--stages", default="all", show_default=True, help="names with commas between")
@click.option("--layers", default="all", show_default=True, help="0..4 (4 left out), or 0,7")
@click.option("--positions", default="all", show_default=True, help="all, last, or 0,5,-1")
@click.option("--decode-steps", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--forced", help="token ids that decode steps are fed, instead of the greedy ones")
@click.option("--engine", "engine_name", default="transformers", show_default=True)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="of the engine: dtype=bfloat16; may be given more than once",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or auto")
@click.option("--revision", help="of a model in the hub's cache")
@click.option(
    "--keep",
    type=click.Choice(["tensors", "sketches", "statistics"]),
    default="tensors",
    show_default=True,
    help="sketches: 16 numbers a token, for git; statistics: for a first look",
)
@click.option("--aprt", is_flag=True, help="write an APRT tree instead of a bundle")
@click.option("--replace", is_flag=True, help="let a capture that is already there give way")
def capture(  # noqa: PLR0917 - click passes them by name
    model: str,
    out: Path,
    text: str | None,
    tokens: str | None,
    file: Path | None,
    stages: str,
    layers: str,
    positions: str,
    decode_steps: int,
    forced: str | None,
    engine_name: str,
    options: Sequence[str],
    device: str,
    revision: str | None,
    keep: str,
    aprt: bool,  # noqa: FBT001
    replace: bool,  # noqa: FBT001
) -> None:
    """Run MODEL, a folder or a name in the hub's cache, and keep what its stages show."""
    from pytest_falsify.cli.capturing import KEPT, Wanted, write

    if aprt and keep != "tensors":
        msg = f"--aprt has no place for {keep}"
        raise ContractError(msg, expected="--keep tensors")
    wanted = Wanted(
        model=model,
        revision=revision,
        device=device,
        engine=engine_name,
        options=tuple(options),
        fed=_one_of(text=text, tokens=tokens, file=file),
        stages=stages,
        layers=layers,
        positions=positions,
        decode_steps=decode_steps,
        forced=forced,
    )
    for line in write(lambda: KEPT[keep](wanted), out, aprt=aprt, replace=replace):
        click.echo(line)


def _one_of(**given: Any) -> tuple[str, Any]:
    found = [(name, value) for name, value in given.items() if value is not None]
    if len(found) != 1:
        msg = f"{len(found)} of --text, --tokens and --file are given"
        raise ContractError(msg, expected="exactly one of them: what the model is fed")
    return found[0]


@click.command()
@click.argument("path", metavar="CAPTURE", type=_CAPTURE)
@click.option("--json", "is_json", is_flag=True, help="for programs")
@click.option("--ignore-unknown", is_flag=True, help="leave out tensors whose names are no sites")
@click.option("--plot", type=_PICTURE, help="of a routing run: who each token went to, as an .svg")
@click.option("--against", type=_CAPTURE, help="of a routing run: the run to compare it with")
@click.option("--control", type=_CAPTURE, help="the run whose difference from that is noise")
@click.option("--anywhere", is_flag=True, help="take a routing run wherever it was copied to")
def inspect(  # noqa: PLR0917 - click passes them by name
    path: Path,
    is_json: bool,  # noqa: FBT001
    ignore_unknown: bool,  # noqa: FBT001
    plot: Path | None,
    against: Path | None,
    control: Path | None,
    anywhere: bool,  # noqa: FBT001
) -> None:
    """Show how CAPTURE came to be and what is in it, once every digest was found right.

    CAPTURE may be a routing run: then every rule of its profile, and status 1 where `--against`
    finds what noise does not explain.
    """
    from pytest_falsify.routing.run import is_run

    if is_run(path):
        from pytest_falsify.cli.routing import Asked, inspect_run

        inspect_run(
            Asked(
                path=path,
                is_json=is_json,
                plot=plot,
                against=against,
                control=control,
                anywhere=anywhere,
            )
        )
        return
    if plot or against or control:
        msg = "this is no routing run"
        raise ContractError(msg, path=path, remedy="captures are compared by `compare`")
    _show(path, is_json=is_json, ignore_unknown=ignore_unknown)


def _show(path: Path, *, is_json: bool, ignore_unknown: bool) -> None:
    from pytest_falsify.captures.bundle import read_statistics
    from pytest_falsify.captures.folder import is_statistics, read_captures
    from pytest_falsify.captures.manifest import MANIFEST
    from pytest_falsify.report.provenance import provenance_json, provenance_lines

    folder = path.parent if path.name == MANIFEST else path
    found = (
        read_statistics(folder)
        if is_statistics(folder)
        else read_captures(path, ignore_unknown=ignore_unknown)
    )
    if is_json:
        click.echo(canonical_text(provenance_json(found)), nl=False)
        return
    click.echo("\n".join(provenance_lines(found, path)))


COMMANDS = (compare, capture, inspect)
