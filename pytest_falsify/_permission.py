"""What the person who started pytest lets contracts do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def may_run_commands(config: pytest.Config) -> bool:
    """Tell whether the person who started pytest lets contracts run commands."""
    return bool(config.getoption("--falsify-allow-commands")) or bool(
        config.getini("falsify_allow_commands")
    )
