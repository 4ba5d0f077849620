"""Reads what an ONNX file would make an engine allocate and read, before an engine opens it.

That is: the names, types and shapes of inputs, outputs and constants, and the file and offset of
the weights. Field numbers are those of onnx.proto. Features that flux-export never writes are
refused, because an engine would follow them to other files or to code: nested graphs, functions,
operators outside ONNX (ONNX Runtime's `EPContext` names a compiled engine to load), sparse and
segmented constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError
from .checks import AGAIN, DAMAGED, ITEM_BYTES, MAX_TENSOR_RANK, fail, show
from .manifest import TensorSignature
from .protobuf_wire import ProtobufError, Value, WireReader

MAX_GRAPH_BYTES = 128 * 2**20
"""Weights are stored outside the graph; a constant inside it has at most 1 MiB."""
MAX_CONSTANTS = 20_000

# onnx.proto, TensorProto.DataType
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
    17: "float8_e4m3fn",
}
_EXTERNAL = 1  # TensorProto.DataLocation


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalTensor:
    """A constant whose bytes are in another file: `length` bytes from `offset` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    location: str
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphHeader:
    """Inputs and outputs in order, and the constants that are stored in other files."""

    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    external: tuple[ExternalTensor, ...]


def read_graph_header(path: Path, name: str) -> GraphHeader:
    """Reads an ONNX file's header.

    Args:
        path: the file.
        name: the file's name in messages.

    Raises:
        BundleError: not an ONNX graph, or not one that flux-export writes.
    """
    size = path.stat().st_size
    if size > MAX_GRAPH_BYTES:
        fail(name, f"a graph of at most {MAX_GRAPH_BYTES} bytes", size)
    return parse_graph_header(path.read_bytes(), name)


def parse_graph_header(content: bytes, name: str) -> GraphHeader:
    """The header of an ONNX file's content; see `read_graph_header`."""
    try:
        return _HeaderReader(content, name).read()
    except ProtobufError as error:
        raise BundleError(f"{name}: not an ONNX graph ({error}). {DAMAGED}") from error


class _HeaderReader:
    def __init__(self, data: bytes, name: str) -> None:
        self._wire = WireReader(data)
        self._name = name
        self._constants: set[str] = set()
        self._external: list[ExternalTensor] = []

    def read(self) -> GraphHeader:
        model = self._wire.collect(
            self._wire.whole(), once="graph=7", many="training_info=20 functions=25"
        )
        for part in ("training_info", "functions"):
            if model[part]:
                self._refuse(part)
        if not model["graph"]:
            raise ProtobufError("no graph in it")
        inputs: list[TensorSignature] = []
        outputs: list[TensorSignature] = []
        for number, value in self._wire.fields(model["graph"][0]):
            if number == 1:
                self._node(value)
            elif number == 5:
                self._initializer(value)
            elif number == 11:
                inputs.append(self._signature("input", value))
            elif number == 12:
                outputs.append(self._signature("output", value))
            elif number == 15:
                self._refuse("sparse_initializer")
        for tensor in inputs:
            if tensor.name in self._constants:
                self._refuse(f"a default for the input {show(tensor.name)}")
        return GraphHeader(
            inputs=tuple(inputs), outputs=tuple(outputs), external=tuple(self._external)
        )

    def _refuse(self, what: str) -> None:
        raise BundleError(
            f"{self._name}: has {what}, which flux-export does not write. Do not use this bundle "
            f"unless you trust its source, or export it again."
        )

    def _node(self, message: Value) -> None:
        node = self._wire.collect(
            message, once="name=3 op_type=4 domain=7 overload=8", many="attribute=5"
        )
        domain, operator = self._wire.text(node["domain"]), self._wire.text(node["op_type"])
        if domain not in ("", "ai.onnx"):
            self._refuse(f"the operator {show(f'{domain}.{operator}')}")
        for attribute in node["attribute"]:
            found = self._wire.collect(
                attribute,
                once="t=5 g=6 sparse_tensor=22",
                many="tensors=10 graphs=11 sparse_tensors=23",
            )
            for part in ("g", "graphs", "sparse_tensor", "sparse_tensors"):
                if found[part]:
                    self._refuse(f"a nested graph or sparse tensor in {show(operator)}")
            for tensor in (*found["t"], *found["tensors"]):
                if self._constant(tensor) is not None:
                    self._refuse(f"external data in an attribute of {show(operator)}")

    def _initializer(self, message: Value) -> None:
        if len(self._constants) >= MAX_CONSTANTS:
            raise ProtobufError(f"more than {MAX_CONSTANTS} constants")
        name = self._wire.text(self._wire.collect(message, once="name=8")["name"])
        if name in self._constants:
            raise ProtobufError(f"two constants called {show(name)}")
        self._constants.add(name)
        external = self._constant(message)
        if external is not None:
            self._external.append(external)

    def _constant(self, message: Value) -> ExternalTensor | None:
        """Checks one TensorProto; returns it if its bytes are stored in another file."""
        tensor = self._wire.collect(
            message,
            once="data_type=2 segment=3 name=8 raw_data=9 data_location=14",
            many="dims=1 external_data=13",
        )
        name = self._wire.text(tensor["name"])
        where = f"{self._name}: constant {show(name)}"
        if tensor["segment"]:
            self._refuse(f"a segment of the constant {show(name)}")
        dtype = self._dtype(where, tensor["data_type"])
        shape = self._shape(where, self._wire.numbers(tensor["dims"]), low=0)
        num_bytes = math.prod(shape) * ITEM_BYTES[dtype]
        if self._wire.number(tensor["data_location"]) == _EXTERNAL:
            location, offset, length = self._place(where, tensor["external_data"])
            return ExternalTensor(
                name=name, dtype=dtype, shape=shape, location=location, offset=offset, length=length
            )
        if tensor["external_data"]:
            raise ProtobufError(f"constant {show(name)} is stored both inside and outside")
        # Whichever field holds the values, each value takes at least one byte.
        assert isinstance(message, slice)
        held = tensor["raw_data"][0] if tensor["raw_data"] else message
        if not isinstance(held, slice):
            raise ProtobufError("a number in place of raw_data")
        held_bytes = held.stop - held.start
        if (tensor["raw_data"] and held_bytes != num_bytes) or held_bytes < math.prod(shape):
            raise BundleError(
                f"{where}: expected {num_bytes} bytes for {dtype} {list(shape)}, got "
                f"{held_bytes}. {DAMAGED}"
            )
        return None

    def _place(self, where: str, entries: list[Value]) -> tuple[str, int, int]:
        """Location, offset and length of external data."""
        place: dict[str, str] = {}
        for entry in entries:
            pair = self._wire.collect(entry, once="key=1 value=2")
            key, value = self._wire.text(pair["key"]), self._wire.text(pair["value"])
            if key in place:
                raise BundleError(
                    f"{where}: external data: expected {show(key)} once, got it twice. {AGAIN}"
                )
            place[key] = value
        if place.keys() != {"location", "offset", "length"}:
            fail(f"{where}: external data", "location, offset and length", sorted(place))
        for key in ("offset", "length"):
            if not (place[key].isascii() and place[key].isdigit() and len(place[key]) < 19):
                fail(f"{where}: external data: {key}", "a number of bytes", place[key])
        return place["location"], int(place["offset"]), int(place["length"])

    def _signature(self, side: str, message: Value) -> TensorSignature:
        value = self._wire.collect(message, once="name=1 type=2")
        name = self._wire.text(value["name"])
        where = f"{self._name}: {side} {show(name)}"
        if not value["type"]:
            fail(where, "a tensor", "no type")
        kinds = self._wire.collect(
            value["type"][0], once="tensor=1", many="other=4 other=5 other=7 other=8 other=9"
        )
        if not kinds["tensor"] or kinds["other"]:
            fail(where, "a tensor", "another type")
        tensor = self._wire.collect(kinds["tensor"][0], once="elem_type=1 shape=2")
        if not tensor["shape"]:
            fail(where, "a static shape", "none")
        dims = self._wire.collect(tensor["shape"][0], once="", many="dim=1")["dim"]
        shape = self._shape(where, (self._dim(where, dim) for dim in dims), low=1)
        return TensorSignature(
            name=name, dtype=self._dtype(where, tensor["elem_type"]), shape=shape
        )

    def _dim(self, where: str, message: Value) -> int:
        dim = self._wire.collect(message, once="value=1 param=2")
        if dim["param"] or not dim["value"]:
            fail(
                where, "a static shape", self._wire.text(dim["param"]) or "a dimension without size"
            )
        return self._wire.number(dim["value"])

    def _dtype(self, where: str, values: list[Value]) -> str:
        number = self._wire.number(values)
        if number not in DTYPES:
            fail(f"{where}: type", f"one of {', '.join(DTYPES.values())}", number)
        return DTYPES[number]

    def _shape(self, where: str, dims: Iterator[int], *, low: int) -> tuple[int, ...]:
        shape: list[int] = []
        for dim in dims:
            shape.append(dim)
            if len(shape) > MAX_TENSOR_RANK or not low <= dim < 2**31:
                fail(
                    f"{where}: shape",
                    f"at most {MAX_TENSOR_RANK} dimensions from {low} to {2**31 - 1}",
                    shape,
                )
        return tuple(shape)
