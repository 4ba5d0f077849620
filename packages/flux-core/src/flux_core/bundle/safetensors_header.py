"""Reads and checks the header of a safetensors file, before anything maps or reads its tensors.

The engine finds the weights by the offsets in its graphs and never reads this header, so the two
are compared here. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError
from .checks import (
    DAMAGED,
    ITEM_BYTES,
    MAX_TENSOR_RANK,
    fail,
    integer,
    one_of,
    record,
    sequence,
    show,
)
from .files import MAX_JSON_BYTES, parse_json_object

_DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "U8": "uint8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
}
_LENGTH_BYTES = 8
_OFFSET = integer(0, 2**50)
_ENTRY = {
    "dtype": one_of(*_DTYPES),
    "shape": sequence(integer(0, 2**31), low=0, high=MAX_TENSOR_RANK),
    "data_offsets": sequence(_OFFSET, low=2, high=2),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetensorsEntry:
    """A tensor of a safetensors file: numpy's name for its type, and its byte range in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors_header(path: Path, name: str) -> dict[str, SafetensorsEntry]:
    """Returns the file's tensors by name; reads only the header.

    Raises:
        BundleError: the header is damaged, a tensor does not match its byte range, or bytes belong
            to no tensor.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(_LENGTH_BYTES)
        num_header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH_BYTES or num_header_bytes > size - _LENGTH_BYTES:
            raise BundleError(f"{name}: ends within its header. {DAMAGED}")
        if num_header_bytes > MAX_JSON_BYTES:
            fail(name, f"a header of at most {MAX_JSON_BYTES} bytes", num_header_bytes)
        header = parse_json_object(stream.read(num_header_bytes), f"{name}: header")
    data = _LENGTH_BYTES + num_header_bytes
    header.pop("__metadata__", None)
    tensors = {
        key: _stored(f"{name}: tensor {show(key)}", entry, data) for key, entry in header.items()
    }
    _check_cover(tensors, name, data, size)
    return tensors


def _stored(where: str, entry: object, data: int) -> SafetensorsEntry:
    fields = record(where, entry, _ENTRY)
    dtype, shape = _DTYPES[fields["dtype"]], fields["shape"]
    begin, end = fields["data_offsets"]
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise BundleError(
            f"{where}: data_offsets: expected {math.prod(shape) * ITEM_BYTES[dtype]} bytes for "
            f"{dtype} {list(shape)}, got {end - begin}. {DAMAGED}"
        )
    return SafetensorsEntry(dtype=dtype, shape=shape, begin=data + begin, end=data + end)


def _check_cover(tensors: dict[str, SafetensorsEntry], name: str, data: int, size: int) -> None:
    """Refuses tensors that overlap or leave gaps, and a file that is longer or shorter."""
    at = data
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            raise BundleError(
                f"{name}: tensor {show(key)}: expected to begin at byte {at}, the end of the "
                f"previous tensor, got {tensor.begin}. {DAMAGED}"
            )
        at = tensor.end
    if at != size:
        raise BundleError(
            f"{name}: expected {at} bytes, the end of its last tensor, got {size}. {DAMAGED}"
        )
