"""GGUF weights de-quantised once into a folder that transformers loads in a moment."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock

from pytest_falsify.captures.new_folder import new_folder
from pytest_falsify.captures.tensor_file import write_tensors
from pytest_falsify.engines.gguf_file import GGUFFile, copy_as_float32
from pytest_falsify.engines.gguf_model import configuration, weights
from pytest_falsify.engines.gguf_tokenizer import write_tokenizer
from pytest_falsify.engines.sources import repository
from pytest_falsify.engines.weight_digests import file_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYOUT = 1
"""Raised when what is made of a file changes, so that nothing older is taken for it."""
FLOAT32 = "float32.gguf"


def models_folder(root: Path) -> Path:
    """Return where models that were made of others are kept; it is safe to delete.

    Args:
        root: the folder of a contract.
    """
    return repository(root / "contract") / ".falsify" / "models"


def dequantised_folder(path: Path, root: Path) -> Path:
    """Return a folder of transformers with the weights of a GGUF file in float32.

    It is made once for the content of the file and kept.

    Args:
        path: the GGUF file.
        root: the folder of the contract.

    Raises:
        Blocked: when the ``gguf`` package is not installed.
        CaptureError: when the file is broken, or of an unknown architecture.
    """
    folder = _place(path, root, "transformers")
    with _one_at_a_time(folder):
        if not folder.is_dir():
            _write_folder(GGUFFile.open(path), folder)
    return folder


def float32_file(path: Path, root: Path) -> Path:
    """Return a GGUF file with the weights of another in float32; see ``dequantised_folder``."""
    folder = _place(path, root, "gguf")
    with _one_at_a_time(folder):
        if not folder.is_dir():
            source = GGUFFile.open(path)
            with new_folder(folder) as temporary:
                copy_as_float32(source, temporary / FLOAT32)
    return folder / FLOAT32


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let the other workers of a session wait for the first, which makes the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        yield


def _place(path: Path, root: Path, kind: str) -> Path:
    digest = file_digest(path).removeprefix("sha256:")[:16]
    return models_folder(root) / f"{digest}-{kind}-{LAYOUT}"


def _write_folder(file: GGUFFile, folder: Path) -> None:
    config = configuration(file)
    with new_folder(folder) as temporary:
        write_tensors(temporary / "model.safetensors", dict(weights(file)))
        if write_tokenizer(file, temporary):
            settings = {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
            }
            _write_json(temporary / "tokenizer_config.json", settings)
        _write_json(temporary / "config.json", config)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
