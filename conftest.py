"""What all tests of this project share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def qwen2_tiny() -> Path:
    """The folder of the trained model that ships with the repository."""
    return ROOT / "fixtures" / "models" / "qwen2-tiny"
