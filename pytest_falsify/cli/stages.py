"""The command that prints the map of a model's stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from pytest_falsify.report.stage_map import StageMap


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="for programs")
def stages(model: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Print where the stages of MODEL, a folder, are seen, and what each is made of.

    The weights are not read, unless a model of an unknown family cannot be followed without.
    """
    found = _map(model)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        click.echo("\n".join(found.lines()))


def _map(folder: Path) -> StageMap:
    from pytest_falsify.engines.checkpoint import load_model, skeleton
    from pytest_falsify.engines.visible import Visible
    from pytest_falsify.report.stage_map import StageMap
    from pytest_falsify.stages.modules import NotFollowedError

    if not (folder / "config.json").is_file():
        msg = f"there is no model at {folder}"
        raise CaptureError(msg, expected="a folder with config.json")
    model = skeleton(folder, "eager")
    try:
        visible = Visible.of(model, "eager")
    except NotFollowedError:  # not without values: it looks at them on its way
        model = load_model(folder, {"dtype": "float32", "attention": "eager", "config": {}}, "cpu")
        visible = Visible.of(model, "eager")
    return StageMap.of(model, visible)


COMMANDS = (stages,)
