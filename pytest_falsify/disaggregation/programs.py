"""A program as a transfer: it is given a file of what is sent and writes one of what arrives."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_falsify.captures.tensor_file import read_tensors, write_tensors
from pytest_falsify.disaggregation.arrival import must_be_as_sent
from pytest_falsify.disaggregation.frames import to_array, to_tensor
from pytest_falsify.engines.process import run_program
from pytest_falsify.errors import CaptureError, ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    Array = np.ndarray[Any, Any]

SECONDS = 60.0
SENT, RECEIVED = "{sent}", "{received}"
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "a program that is given what is sent and writes what arrives",
    "properties": {
        "command": {
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "minItems": 1,
            "description": "its words, without a shell; {sent} is a safetensors file of what is "
            "sent, {received} the one that it has to write",
        },
        "timeout": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": f"seconds after which it is stopped; {SECONDS:g}",
        },
    },
    "required": ["command"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A command that carries tensors.

    Attributes:
        words: the command, with its placeholders.
        folder: where it is run.
        seconds: how long it may take.
    """

    words: tuple[str, ...]
    folder: Path
    seconds: float

    @classmethod
    def of(cls, options: Mapping[str, Any], folder: Path) -> Program:
        """Return the program of a contract.

        Args:
            options: as ``SCHEMA`` has them.
            folder: the repository.

        Raises:
            ContractError: when the command lacks a placeholder.
        """
        words = tuple(options["command"])
        lacking = [each for each in (SENT, RECEIVED) if not any(each in word for word in words)]
        if lacking:
            msg = f"the command of a transfer has no {' and no '.join(lacking)}"
            raise ContractError(msg, expected=f'["my-transfer", "{SENT}", "{RECEIVED}"]')
        return cls(words=words, folder=folder, seconds=options.get("timeout", SECONDS))

    def __call__(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what arrives of some tensors.

        Raises:
            Blocked: when there is no such program.
            CaptureError: when it fails, takes too long, or loses or changes a tensor.
        """
        arrays = {name: to_array(each) for name, each in tensors.items()}
        with tempfile.TemporaryDirectory(prefix="falsify-") as folder:
            sent, received = (Path(folder, f"{each}.safetensors") for each in ("sent", "received"))
            write_tensors(sent, arrays)
            self._run(sent, received)
            arrived = self._read(received)
        must_be_as_sent(arrays, arrived, f"the transfer `{self.words[0]}`")
        return {name: to_tensor(each) for name, each in arrived.items()}

    def _run(self, sent: Path, received: Path) -> None:
        words = [
            each.replace(SENT, str(sent)).replace(RECEIVED, str(received)) for each in self.words
        ]
        done = run_program(words, folder=self.folder, seconds=self.seconds)
        if done.exit is None:
            msg = f"the transfer `{self.words[0]}` did not end within {self.seconds:g} s"
            raise CaptureError(msg, remedy="give it more time with `timeout`, or mend it")
        if done.exit:
            told = f": {done.last_line}" if done.last_line else ""
            msg = f"the transfer `{self.words[0]}` ended with status {done.exit}{told}"
            raise CaptureError(msg, expected="status 0")

    def _read(self, received: Path) -> dict[str, Array]:
        """Return copies of the tensors in a file that will be removed."""
        if not received.is_file():
            msg = f"the transfer `{self.words[0]}` wrote nothing"
            raise CaptureError(msg, expected=f"a safetensors file where {RECEIVED} says")
        return {name: np.array(each) for name, each in read_tensors(received).items()}
