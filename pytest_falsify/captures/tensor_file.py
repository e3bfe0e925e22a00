"""The safetensors format, read by mapping the file and trusted only after it was checked.

The format: eight bytes with the length of the header (little-endian), the header as JSON
``{name: {dtype, shape, data_offsets: [begin, end]}}``, then the values in C order. The ranges must
cover the rest of the file, without a hole and without an overlap.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import mmap
import os
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Never

import ml_dtypes
import numpy as np

from pytest_falsify.canonical import digest_bytes, parse_json
from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
}
"""The dtypes of the format that NumPy can hold, by their names in the format."""

MOST_HEADER_BYTES = 100_000_000
"""The reference implementation's own bound."""
METADATA = "__metadata__"
_LENGTH_BYTES = 8
_ALIGNMENT = 64
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def dtype_named(name: str) -> np.dtype[Any] | None:
    """Return the dtype with NumPy's or ``ml_dtypes``' name, or None when it cannot be stored."""
    return next((dtype for dtype in _CODES if dtype.name == name), None)


def raw_bytes(array: Array) -> Array:
    """Return the bytes of an array in C order as ``uint8``; a copy only where it is not in C order.

    Values are little-endian, as the format has them.
    """
    native = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(native).reshape(-1).view(np.uint8)


def array_digest(array: Array) -> str:
    """Return ``sha256:...`` of the bytes of an array."""
    return digest_bytes(raw_bytes(array).data)


def write_tensors(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays and sync them to the disk.

    Args:
        path: the file; it must not exist.
        arrays: by name, of any shape.

    Raises:
        CaptureError: when the format has no such dtype.
    """
    for name, array in arrays.items():
        if array.dtype.newbyteorder("=") not in _CODES:
            msg = f"tensor `{name}` is {array.dtype}, which safetensors cannot hold"
            raise CaptureError(msg, path=path, expected=f"one of {', '.join(map(str, _CODES))}")
    with path.open("xb") as file:
        for each in tensor_buffers(arrays):
            file.write(each)
        file.flush()
        os.fsync(file.fileno())


def tensor_buffers(arrays: Mapping[str, Array]) -> list[memoryview]:
    """Return the bytes of arrays in the format, in pieces: the header, then each array's own.

    Args:
        arrays: by name, of any shape and of dtypes of the format.
    """
    # The widest first: so every value lies on a multiple of its own size.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    header = _header(dict(ordered))
    length = len(header).to_bytes(_LENGTH_BYTES, "little")
    return [memoryview(length + header), *(raw_bytes(array).data for _, array in ordered)]


def read_tensors(path: Path) -> dict[str, Array]:
    """Map a file and return its tensors by name, in the order of their bytes, without a copy.

    Raises:
        CaptureError: when the file is not whole, or its header does not describe it.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _LENGTH_BYTES:
                _refuse(path, f"{size} bytes are too few for a safetensors file")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        msg = f"it cannot be read: {error.strerror}"
        raise CaptureError(msg, path=path) from error
    return tensors_in(memoryview(mapped), path)


def tensors_in(data: memoryview, path: Path) -> dict[str, Array]:
    """Return the tensors of bytes in the format, as views, in the order of their bytes.

    Args:
        data: all of them.
        path: where they came from, for messages.

    Raises:
        CaptureError: when they are not whole, or the header does not describe them.
    """
    size = len(data)
    if size < _LENGTH_BYTES:
        _refuse(path, f"{size} bytes are too few for a safetensors file")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > min(size - _LENGTH_BYTES, MOST_HEADER_BYTES):
        _refuse(path, f"the header claims {length} bytes, and the file has {size}")
    start = _LENGTH_BYTES + length
    entries = _entries(path, bytes(data[_LENGTH_BYTES:start]), size - start)
    return {entry.name: _mapped_array(data, start, entry) for entry in entries}


def _header(arrays: Mapping[str, Array]) -> bytes:
    described: dict[str, Any] = {}
    begin = 0
    for name, array in arrays.items():
        end = begin + array.nbytes
        described[name] = {
            "dtype": _CODES[array.dtype.newbyteorder("=")],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(described, separators=(",", ":")).encode()
    return text + b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)


def _mapped_array(mapped: memoryview, start: int, entry: _Entry) -> Array:
    count = entry.end - entry.begin
    if count == 0:
        return np.zeros(entry.shape, entry.dtype)
    data = np.frombuffer(mapped, np.uint8, count, start + entry.begin)
    return data.view(entry.dtype).reshape(entry.shape)


def _entries(path: Path, header: bytes, data_bytes: int) -> list[_Entry]:
    try:
        described = parse_json(header, object_pairs_hook=_without_duplicates)
    except ValueError as error:
        msg = f"the header is not JSON: {error}"
        raise CaptureError(msg, path=path, expected="a safetensors file") from error
    if not isinstance(described, dict):
        _refuse(path, "the header is no JSON object")
    entries = [_entry(path, name, each) for name, each in described.items() if name != METADATA]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    at = 0
    for entry in entries:
        if entry.begin != at:
            _refuse(
                path, f"tensor `{entry.name}` begins at byte {entry.begin} of the data, not {at}"
            )
        at = entry.end
    if at != data_bytes:
        _refuse(path, f"the header describes {at} bytes of data, and the file has {data_bytes}")
    return entries


def _entry(path: Path, name: str, described: Any) -> _Entry:
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"tensor `{name}` is not described by dtype, shape and data_offsets")
    dtype = DTYPES.get(described["dtype"]) if isinstance(described["dtype"], str) else None
    if dtype is None:
        msg = f"tensor `{name}` has the unknown dtype {described['dtype']}"
        raise CaptureError(msg, path=path, expected=f"one of {', '.join(DTYPES)}")
    shape, offsets = described["shape"], described["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004
        _refuse(path, f"the shape or the data_offsets of tensor `{name}` are no sizes")
    begin, end = offsets
    if end - begin != prod(shape) * dtype.itemsize:
        _refuse(
            path,
            f"tensor `{name}` has {end - begin} bytes, "
            f"and shape {shape} {dtype} needs {prod(shape) * dtype.itemsize}",
        )
    return _Entry(name, dtype, tuple(shape), begin, end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        msg = "a key is there twice"
        raise ValueError(msg)
    return found


def _refuse(path: Path, what: str) -> Never:
    raise CaptureError(
        what,
        path=path,
        expected="a whole safetensors file",
        remedy="make the capture again, or copy the file again",
    )
