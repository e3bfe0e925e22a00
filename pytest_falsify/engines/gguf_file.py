"""GGUF files, read and copied through the ``gguf`` package; every tensor can be had as float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import Blocked, CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    Array = np.ndarray[Any, Any]

INSTALL = "pip install 'pytest-falsify[gguf]'"
MAGIC = b"GGUF"
SUFFIX = ".gguf"
_ARCHITECTURE = "general.architecture"
_FILE_TYPE = "general.file_type"
_OF_THE_CONTAINER = ("GGUF.", _ARCHITECTURE, _FILE_TYPE)
Change = Callable[[str, "Array"], "Array"]
"""Takes a tensor's name and float32 values, and returns the values to write."""


def is_gguf(path: Path) -> bool:
    """Tell whether a path is a file that begins as a GGUF file does, or is called one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == SUFFIX or file.read(len(MAGIC)) == MAGIC


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFFile:
    """An open file.

    Attributes:
        reader: the ``gguf`` package's own.
    """

    path: Path
    reader: Any

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Map a file and read its metadata.

        Raises:
            Blocked: when the ``gguf`` package is not installed.
            CaptureError: when it is no GGUF file, or not whole.
        """
        if find_spec("gguf") is None:
            msg = "a GGUF file is read with the package gguf, which is not installed"
            raise Blocked(msg, remedy=INSTALL)
        import gguf

        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError, KeyError, IndexError, UnicodeError, OverflowError) as error:
            msg = f"it is no whole GGUF file: {error or type(error).__name__}"
            raise CaptureError(
                msg,
                path=path,
                expected="`GGUF`, metadata, and all tensors that it describes",
                remedy=f"fetch or make it again; it has {path.stat().st_size} bytes now",
            ) from error
        return cls(path=path, reader=reader)

    @property
    def architecture(self) -> str:
        """The architecture by llama.cpp's name."""
        return str(self.value(_ARCHITECTURE))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """All values but those of the container itself, by key; long lists are read late."""
        return {
            key: field
            for key, field in self.reader.fields.items()
            if not key.startswith(_OF_THE_CONTAINER)
        }

    def value(self, key: str, default: Any = None) -> Any:
        """Return a metadata value; ``{arch}`` in the key stands for the architecture.

        Raises:
            CaptureError: when it is absent and there is no default.
        """
        if "{arch}" in key:
            key = key.replace("{arch}", self.architecture)
        field = self.reader.fields.get(key)
        if field is not None:
            return field.contents()
        if default is None:
            msg = f"the metadata has no `{key}`"
            raise CaptureError(msg, path=self.path)
        return default

    def has(self, key: str) -> bool:
        """Tell whether the metadata has a key; ``{arch}`` stands for the architecture."""
        return key.replace("{arch}", self.architecture) in self.reader.fields

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors, in the order of the file."""
        return tuple(each.name for each in self.reader.tensors)

    def tensors(self) -> Iterator[tuple[str, Array]]:
        """Yield each tensor as float32, its axes slowest first, as NumPy has them.

        Raises:
            CaptureError: when a tensor's type cannot be de-quantised.
        """
        import gguf
        import numpy as np

        for each in self.reader.tensors:
            try:
                values = gguf.quants.dequantize(each.data, each.tensor_type)
            except NotImplementedError as error:
                msg = f"tensor `{each.name}` is {each.tensor_type.name}, which cannot be expanded"
                raise CaptureError(msg, path=self.path) from error
            # A writable copy: the file is mapped.
            yield each.name, np.array(values, np.float32)


def copy_as_float32(
    source: GGUFFile,
    path: Path,
    *,
    change: Change | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a copy of a file whose tensors are all float32.

    Args:
        source: the file.
        path: the copy; what is there is overwritten.
        change: what is done to each tensor's values on the way.
        metadata: values that take the place of the file's own.
    """
    import gguf

    writer = gguf.GGUFWriter(path, source.architecture)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for key, field in source.metadata.items():
        value = (metadata or {}).get(key)
        kind, *inner = field.types
        writer.add_key_value(
            key,
            field.contents() if value is None else value,
            kind,
            sub_type=inner[-1] if inner else None,
        )
    for name, values in source.tensors():
        writer.add_tensor(name, values if change is None else change(name, values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
