"""What all tests of this project share."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def qwen2_tiny() -> Path:
    """The folder of the trained model that ships with the repository."""
    return ROOT / "fixtures" / "models" / "qwen2-tiny"


def _loaded(path: Path) -> ModuleType:
    """Return a module that stands outside of any package."""
    if path.stem not in sys.modules:
        spec = spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[path.stem] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[path.stem]


@pytest.fixture(scope="session")
def tiny_gguf(qwen2_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model as a GGUF file."""
    pytest.importorskip("gguf", reason="pip install 'pytest-falsify[gguf]' makes this run")
    support = _loaded(ROOT / "tests" / "unit" / "engines" / "gguf_support.py")
    path = tmp_path_factory.mktemp("gguf") / "qwen2-tiny.gguf"
    return Path(support.write_gguf(qwen2_tiny, path))


@pytest.fixture(scope="session")
def aggregated_url(tiny_gguf: Path) -> Iterator[str]:
    """Where llama.cpp's own server serves the trained model."""
    with _servers().server(tiny_gguf) as url:
        yield url


@pytest.fixture(scope="session")
def split_url(tiny_gguf: Path) -> Iterator[str]:
    """Where it is served otherwise: flash attention, and a prompt in batches of 4."""
    with _servers().server(tiny_gguf, flash=True, batch=4) as url:
        yield url


@pytest.fixture(scope="session")
def middlemen() -> ModuleType:
    """The module of what stands between a client and a server."""
    return _loaded(ROOT / "fixtures" / "middleman.py")


def _servers() -> ModuleType:
    pytest.importorskip("xllamacpp", reason="pip install 'pytest-falsify[llama]' makes this run")
    pytest.importorskip("httpx2", reason="pip install 'pytest-falsify[served]' makes this run")
    import httpcore2  # noqa: F401 - before a run in this process loads it, and forgets it again

    return _loaded(ROOT / "fixtures" / "servers.py")
