"""The models of this room's tests, saved once."""

from __future__ import annotations

import pytest
from disaggregation_support import FAMILIES, Bench, save_model


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """The folder of a small model of each family."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("families")
    return {name: save_model(name, root / name) for name in FAMILIES}


@pytest.fixture(scope="session")
def bench(families):
    """The llama on trial."""
    return Bench(folder=families["llama"])
