"""The devices that are really here."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pytest_falsify.errors import Blocked, ContractError

if TYPE_CHECKING:
    from pytest_falsify.contracts.model import Target

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
GPU_LANE = "run this lane where one is: pytest --falsify <contracts> -m gpu"


def resolve_device(target: Target) -> str:
    """Return the device that a target runs on: ``cpu`` or ``cuda:N``.

    Raises:
        Blocked: when the device is absent, or has less memory than the target needs.
        ContractError: when the target names no device that is known.
    """
    wanted = target.device
    if wanted == "auto":
        wanted = "cuda" if _cuda_count() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        msg = f"target `{target.name}`: unknown device `{wanted}`"
        raise ContractError(msg, expected="cpu, cuda, cuda:<index> or auto")
    if wanted == "cpu":
        _must_have(target, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"), "cpu")
        return wanted
    return _cuda(target, int(wanted.partition(":")[2] or 0))


def _cuda(target: Target, index: int) -> str:
    if find_spec("torch") is None:
        msg = f"target `{target.name}` needs torch to reach a CUDA device"
        raise Blocked(msg, remedy="pip install 'pytest-falsify[hf]'")
    if index >= _cuda_count():
        msg = f"target `{target.name}` needs CUDA device {index}, which is not here"
        raise Blocked(msg, remedy=GPU_LANE)
    import torch

    _must_have(target, torch.cuda.mem_get_info(index)[0], f"cuda:{index}")
    return f"cuda:{index}"


def _cuda_count() -> int:
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _must_have(target: Target, free: int, device: str) -> None:
    if target.memory is None:
        return
    needed = parse_memory(target.memory)
    if free < needed:
        msg = f"target `{target.name}` needs {target.memory} on {device}, which are not free"
        raise Blocked(msg, remedy="free the device, or run it on a larger one")


def parse_memory(text: str) -> int:
    """Return the bytes of ``24GiB``.

    Raises:
        ContractError: when it is not a number and one of KiB, MiB, GiB, TiB.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]iB)", text.strip())
    if match is None:
        msg = f"`{text}` is not an amount of memory"
        raise ContractError(msg, expected="a number and a binary unit, for example 24GiB")
    return int(float(match[1]) * _UNITS[match[2]])
