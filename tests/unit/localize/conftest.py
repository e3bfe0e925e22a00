"""One small model for all tests of localisation."""

from __future__ import annotations

import pytest
from localize_support import Lab, make_model


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Runs of the small model, kept for the session."""
    folder = tmp_path_factory.mktemp("small")
    make_model(folder)
    return Lab(folder=folder)
