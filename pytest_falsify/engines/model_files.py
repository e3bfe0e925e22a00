"""A model's files: found, proven whole, and digested. No framework is needed for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.canonical import digest
from pytest_falsify.engines.weight_digests import file_digest
from pytest_falsify.errors import Blocked, CaptureError, FalsifyError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.contracts.model import Target


def is_path(model: str) -> bool:
    """Tell what can only be a folder from what may be a name in a model hub."""
    return model.startswith((".", "/", "~"))


def model_folder(target: Target, root: Path) -> Path:
    """Return the folder of a target's model; of a GGUF file one with its weights in float32.

    Args:
        target: the target.
        root: the folder that a relative path starts from: the contract's.

    Raises:
        Blocked: when the model is absent and the target says what would provide it, or when it
            is a hub's name that is not in the local cache.
        CaptureError: when a folder is named that is not there.
    """
    from pathlib import Path

    folder = (root / Path(target.model).expanduser()).resolve()
    if (folder / "config.json").is_file():
        return folder
    if folder.is_file():
        from pytest_falsify.engines.gguf_folder import dequantised_folder

        return dequantised_folder(folder, root)
    if not is_path(target.model):
        return _hub_folder(target)
    raise absent(target, "a folder with config.json and *.safetensors")


def absent(target: Target, expected: str) -> FalsifyError:
    """Return the error for a path where there is no model: blocked where one can be provided."""
    what = f"target `{target.name}`: there is no model at {target.model}"
    if target.provide:
        return Blocked(what, remedy=target.provide)
    return CaptureError(
        what,
        expected=f"{expected}, relative to the contract",
        remedy="mend `model:`, or add `provide: <the command that makes it>` to the target",
    )


def _hub_folder(target: Target) -> Path:
    from pathlib import Path

    command = target.provide or " ".join(
        ["hf download", target.model, *(["--revision", target.revision] if target.revision else [])]
    )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        msg = f"target `{target.name}`: huggingface_hub is not installed"
        raise Blocked(msg, remedy="pip install 'pytest-falsify[hf]'") from error
    try:
        found = snapshot_download(target.model, revision=target.revision, local_files_only=True)
    except HFValidationError as error:
        raise absent(target, "a folder, or owner/name in a model hub") from error
    except LocalEntryNotFoundError as error:
        what = f"model {target.model} is not in the local cache, nor is it a folder"
        msg = f"target `{target.name}`: {what}"
        raise Blocked(msg, remedy=command) from error
    return Path(found)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a model, each proven to be whole.

    Raises:
        CaptureError: when there is none, or one is truncated or not safetensors.
    """
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        msg = f"{folder.name} holds no safetensors weights"
        raise CaptureError(msg, path=folder, expected="model.safetensors or its shards")
    for each in files:
        _must_be_whole(each)
    return files


def _must_be_whole(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        msg = f"not a whole safetensors file: {error}"
        raise CaptureError(
            msg,
            path=file,
            expected="as many bytes as its header promises",
            remedy=f"fetch or make the file again; it has {file.stat().st_size} bytes now",
        ) from error


def weights_digest(folder: Path) -> str:
    """Return ``sha256:...`` of a model's weights and configuration, whatever the folder is called.

    Raises:
        CaptureError: see ``weight_files``.
    """
    files = [*weight_files(folder), folder / "config.json"]
    return digest({each.name: file_digest(each) for each in files})
