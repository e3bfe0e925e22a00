"""A device in use: one worker at a time has an accelerator."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_falsify._places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    import pytest

    from pytest_falsify.contracts.model import Target

VISIBLE = "CUDA_VISIBLE_DEVICES"


@contextmanager
def device_in_use(target: Target, config: pytest.Config) -> Iterator[str]:
    """Give the device of a target, which no other worker of pytest-xdist uses meanwhile.

    Raises:
        Blocked: when the device is absent, or has less memory than the target needs.
        ContractError: when the target names no device that is known.
    """
    from pytest_falsify.engines.device import resolve_device

    # Whether its memory is enough can be told only once nobody else uses it.
    device = resolve_device(replace(target, memory=None))
    with _lock(device, config):
        yield resolve_device(target)


def _lock(device: str, config: pytest.Config) -> AbstractContextManager[object]:
    if device == "cpu" or not hasattr(config, "workerinput"):
        return nullcontext()
    from filelock import FileLock

    path = lock_path(device, Places.of(config).locks)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def lock_path(device: str, folder: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the lock file of a CUDA device.

    ``cuda:1`` is the second of those that CUDA_VISIBLE_DEVICES shows, so that two workers that see
    different devices under the same name do not wait for each other.
    """
    index = int(device.partition(":")[2] or 0)
    visible = [each.strip() for each in environ.get(VISIBLE, "").split(",") if each.strip()]
    name = visible[index] if index < len(visible) else str(index)
    return folder / f"cuda-{name.replace('/', '-')}.lock"
