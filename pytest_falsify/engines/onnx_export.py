"""ONNX files made of transformers' models, once, and kept."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pytest_falsify.canonical import digest
from pytest_falsify.captures.new_folder import new_folder
from pytest_falsify.engines.gguf_folder import models_folder
from pytest_falsify.engines.model_files import weights_digest
from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "model.onnx"
LAYOUT = 1
"""Raised when what is exported changes."""
EXPORTERS = ("torch", "transformers", "onnx", "onnxscript")
SAMPLE = 8
"""Tokens of the example that the graph is traced with."""


def exported(folder: Path, root: Path) -> Path:
    """Return the ONNX file of a model of transformers, exported once by torch's exporter.

    It takes ``input_ids`` of one sequence of any length, and gives the logits of all its tokens.

    Args:
        folder: the model's.
        root: the folder of the contract.

    Raises:
        CaptureError: when the model cannot be exported.
    """
    versions = {name: version(name) for name in EXPORTERS}
    key = digest([weights_digest(folder), versions]).removeprefix("sha256:")[:16]
    place = models_folder(root) / f"{key}-onnx-{LAYOUT}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if not place.is_dir():
            with new_folder(place) as temporary:
                _export(folder, temporary / FILE)
    return place / FILE


def _export(folder: Path, path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    class LogitsOnly(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any) -> Any:
            return self.model(input_ids=input_ids, use_cache=False).logits

    with _quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
        longest = model.config.max_position_embeddings
        length = torch.export.Dim("tokens", min=2, max=longest)
        try:
            program = torch.onnx.export(
                LogitsOnly(model),
                (torch.zeros((1, SAMPLE), dtype=torch.long),),
                input_names=["input_ids"],
                output_names=["logits"],
                dynamic_shapes={"input_ids": {1: length}},
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter raises whatever its parts raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            msg = f"torch cannot export this model to ONNX: {first}"
            raise CaptureError(msg, path=folder, remedy="give an .onnx file") from error
        program.save(str(path), external_data=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its own developers, and progress bars, off the terminal."""
    from transformers.utils import logging as transformers_logging

    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if was_shown:
            transformers_logging.enable_progress_bar()
