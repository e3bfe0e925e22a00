"""Which machine this is: a digest that gives nothing away, and the platform in words."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_falsify.canonical import digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

OVERRIDE = "FALSIFY_MACHINE"
"""Name of the variable that names the machine, so that a pool of runners counts as one."""

_SALT = "pytest-falsify machine 1"
_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_MULTICAST = 1 << 40


def machine_id(
    accelerators: Iterable[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    files: Sequence[Path] = _FILES,
    servers: Iterable[str] = (),
) -> str:
    """Return the digest that stands for this machine.

    Machines that cannot be told apart are one machine: a confirmation by another one is then not
    counted, never invented. ``FALSIFY_MACHINE`` overrides everything else.

    Args:
        accelerators: the ids of the accelerators, such as GPU UUIDs, in any order.
        environ: the environment; by default that of the process.
        files: where the operating system keeps its machine id.
        servers: digests of the machines that computed, where that was not this one: two clients
            of one server are no two machines.
    """
    name = (os.environ if environ is None else environ).get(OVERRIDE)
    if name:
        return digest([_SALT, "named", name])
    if elsewhere := sorted(set(servers)):
        return digest([_SALT, "servers", elsewhere])
    return digest([_SALT, _system_id(files), sorted(accelerators)])


def platform_words(
    accelerators: Iterable[str] = (), libraries: Mapping[str, str] | None = None
) -> str:
    """Return the platform in words: ``linux-x86_64, NVIDIA H200, torch 2.13.0``.

    Args:
        accelerators: the names of the accelerators; one that is there twice is named once.
        libraries: versions by name.
    """
    system = f"{platform.system().lower()}-{platform.machine().lower()}"
    names = [f"{name} {version}" for name, version in sorted((libraries or {}).items())]
    return ", ".join([system, *sorted(set(accelerators)), *names])


def _system_id(files: Sequence[Path]) -> str:
    for path in files:
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            return text
    return "unidentified" if sys.platform == "linux" else _hardware_id()


def _hardware_id() -> str:
    """The hardware address, unless Python had to make one up (RFC 4122, section 4.5)."""
    node = uuid.getnode()
    return "unidentified" if node & _MULTICAST else f"{node:012x}"
