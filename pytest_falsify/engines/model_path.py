"""A model that is one file, or a folder of any sort: found and digested, whatever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.canonical import digest
from pytest_falsify.engines.model_files import absent, is_path, model_folder, weights_digest
from pytest_falsify.engines.weight_digests import file_digest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_falsify.contracts.model import Target


def model_path(target: Target, root: Path) -> Path:
    """Return the file or the folder of a target's model.

    Args:
        target: the target.
        root: the folder that a relative path starts from: the contract's.

    Raises:
        Blocked: when the model is absent and the target says what would provide it, or when it
            is a hub's name that is not in the local cache.
        CaptureError: when a path is named that is not there.
    """
    from pathlib import Path

    path = (root / Path(target.model).expanduser()).resolve()
    if path.exists():
        return path
    if not is_path(target.model):
        return model_folder(target, root)
    raise absent(target, "a file or a folder")


def model_digest(path: Path) -> str:
    """Return ``sha256:...`` of a model, whatever its file or folder is called.

    Of a folder with safetensors it is that of its weights and configuration, as the transformers
    engine has it; of any other folder that of all its files.
    """
    if path.is_file():
        return file_digest(path)
    if any(path.glob("*.safetensors")) and (path / "config.json").is_file():
        return weights_digest(path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return digest({each.relative_to(path).as_posix(): file_digest(each) for each in files})
