"""Fixtures of the checks' tests."""

from __future__ import annotations

import pytest
from checks_support import SITES


@pytest.fixture
def site():
    """The site in the middle."""
    return SITES[1]
