"""The command line: ``pytest-falsify``. Each room of commands is a module of its own."""

from __future__ import annotations

import click

from pytest_falsify.cli import (
    captures,
    contracts,
    exchange,
    ledger,
    localizing,
    prompting,
    routing,
    stages,
    tracing,
)
from pytest_falsify.cli.shared import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pytest-falsify")
def main() -> None:
    """Look at contracts and at the evidence for them. `pytest --falsify` makes the evidence."""


for room in (
    contracts,
    ledger,
    exchange,
    captures,
    localizing,
    prompting,
    routing,
    stages,
    tracing,
):
    for command in room.COMMANDS:
        main.add_command(command)
