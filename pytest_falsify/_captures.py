"""Which captures a test run keeps on disk, and for whom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_falsify._places import Places
from pytest_falsify.canonical import digest, digest_bytes
from pytest_falsify.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

    from pytest_falsify.captures.cache import CaptureCache

RUN, KEEP, OFF = MODES = "run", "keep", "off"
RUN_LIFETIME = 3600.0
_ROOMS = ("captures", "disaggregation", "engines", "stages")
_NUMERIC = ("OMP_", "MKL_", "KMP_", "OPENBLAS_", "ONEDNN_", "DNNL_", "ATEN_", "TORCH", "PYTORCH_")
_NUMERIC_CUDA = ("CUBLAS", "CUDNN", "CUDA_", "NVIDIA_")


def capture_cache(config: pytest.Config) -> CaptureCache | None:
    """Return where this process finds and leaves captures; None: in its own memory alone.

    ``run`` shares them among the workers of one test run, and ``keep`` among runs too.
    """
    mode = config.getoption("--falsify-captures") or config.getini("falsify_captures")
    if mode not in MODES:
        msg = f"falsify_captures = {mode}"
        raise ContractError(msg, path=config.inipath, expected=f"one of {', '.join(MODES)}")
    run = getattr(config, "workerinput", {}).get("testrunuid")
    if mode == OFF or (mode == RUN and run is None):
        return None
    from pytest_falsify.captures.cache import CaptureCache
    from pytest_falsify.engines.device import parse_memory

    places = Places.of(config)
    places.prepare()
    is_lasting = mode == KEEP
    cache = CaptureCache(
        folder=places.captures if is_lasting else places.run_captures,
        scope=lasting_scope() if is_lasting else digest({"run": run}),
        is_lasting=is_lasting,
        max_bytes=parse_memory(config.getini("falsify_captures_size")),
        lifetime=None if is_lasting else RUN_LIFETIME,
    )
    cache.shrink()
    return cache


def lasting_scope(environ: Mapping[str, str] = os.environ, *, also: Sequence[str] = ()) -> str:
    """Return the digest of what decides numbers beside engine, model and inputs.

    It is the machine, the code that looks at models, and what the environment tells libraries.

    Args:
        environ: the environment.
        also: further rooms of this package whose code decides.
    """
    from pytest_falsify.ledger.machine import machine_id

    here = Path(__file__).parent
    files = [each for room in (*_ROOMS, *also) for each in sorted((here / room).rglob("*.py"))]
    return digest(
        {
            "code": [digest_bytes(each.read_bytes()) for each in files],
            "environment": {
                name: value
                for name, value in environ.items()
                if name.startswith(_NUMERIC + _NUMERIC_CUDA)
            },
            "machine": machine_id(environ={}),
        }
    )
