"""Reading a graph's header gives the same as the `onnx` package, and needs little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from flux_core.bundle import protobuf_wire
from flux_core.bundle.manifest import TensorSignature
from flux_core.bundle.onnx_header import ExternalTensor, GraphHeader, parse_graph_header
from flux_core.errors import BundleError
from flux_runtime.run.command import shipped_policy

from .toy_bundle import write_bundle


def header_by_onnx(content: bytes) -> GraphHeader:
    """The same header, read by the `onnx` package."""
    graph = onnx.load_from_string(content).graph

    def dtype(number: int) -> str:
        return helper.tensor_dtype_to_np_dtype(number).name

    def side(values: list[onnx.ValueInfoProto]) -> tuple[TensorSignature, ...]:
        return tuple(
            TensorSignature(
                name=value.name,
                dtype=dtype(value.type.tensor_type.elem_type),
                shape=tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
            )
            for value in values
        )

    def external(tensor: TensorProto) -> ExternalTensor:
        place = {entry.key: entry.value for entry in tensor.external_data}
        return ExternalTensor(
            name=tensor.name,
            dtype=dtype(tensor.data_type),
            shape=tuple(tensor.dims),
            location=place["location"],
            offset=int(place["offset"]),
            length=int(place["length"]),
        )

    return GraphHeader(
        inputs=side(list(graph.input)),
        outputs=side(list(graph.output)),
        external=tuple(
            external(t) for t in graph.initializer if t.data_location == TensorProto.EXTERNAL
        ),
    )


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    toy = write_bundle(tmp_path_factory.mktemp("graphs") / "bundle")
    folders = (toy, shipped_policy("aloha-sim"))
    files = [folder / f"{name}.onnx" for folder in folders for name in ("prefix", "denoise")]
    return [file.read_bytes() for file in files]


def test_the_header_is_what_the_onnx_package_reads(graphs: list[bytes]) -> None:
    for content in graphs:
        assert parse_graph_header(content, "x.onnx") == header_by_onnx(content)
    assert len(parse_graph_header(graphs[2], "x.onnx").external) > 10


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_constants_inside_a_graph_are_accepted_in_every_encoding(
    dtype: str, shape: tuple[int, ...], graphs: list[bytes]
) -> None:
    array = np.ones(shape, dtype)
    number = helper.np_dtype_to_tensor_dtype(array.dtype)
    model = onnx.load_from_string(graphs[0])
    model.graph.initializer.append(numpy_helper.from_array(array, "raw"))
    values = array.reshape(-1).tolist()
    model.graph.initializer.append(helper.make_tensor("typed", number, shape, values))
    attribute = helper.make_tensor("", number, shape, values)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=attribute))
    model.graph.node.append(helper.make_node("Constant", [], ["d"], value=attribute))
    content = model.SerializeToString()
    assert parse_graph_header(content, "x.onnx") == header_by_onnx(content)


def test_unpacked_dims_are_read_too(graphs: list[bytes]) -> None:
    # TensorProto: dims=1 twice, unpacked; data_type=2; name=8; raw_data=9
    fields = bytes([0x08, 2, 0x08, 3, 0x10, TensorProto.UINT8])
    tensor = fields + b"\x42\x01u" + b"\x4a\x06" + bytes(6)
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    model = b"\x3a" + bytes([len(graph)]) + graph
    assert parse_graph_header(model, "x.onnx") == header_by_onnx(model)
    short = model.replace(b"\x08\x03", b"\x08\x04")
    with pytest.raises(BundleError, match=r"expected 8 bytes for uint8 \[2, 4\], got 6"):
        parse_graph_header(short, "x.onnx")


def field(number: int, content: bytes) -> bytes:
    """A message or text as protobuf writes it."""
    length, size = len(content), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def nest(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = field(7, content)
    return content


FIELDS = 30_000
FLOAT = b"\x10\x01"  # data_type
HOSTILE = {
    "fields": b"\x0a\x00" * FIELDS,
    "nest": nest(2000),
    "nodes": field(7, field(1, b"") * FIELDS),
    "unknown": field(7, b"\x08\x01" * FIELDS),
    "attributes": field(7, field(1, field(5, b"") * FIELDS)),
    "dims": field(7, field(5, FLOAT + b"\x08\x00" * (FIELDS // 2))),
    "packed dims": field(7, field(5, FLOAT + field(1, bytes(FIELDS)))),
    "constants": field(7, field(5, field(8, b"ab")) * FIELDS),
    "long name": field(7, field(11, field(1, b"n" * FIELDS))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_costs_little_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_wire, "MAX_FIELDS", FIELDS)
    tracemalloc.start()
    try:
        parse_graph_header(HOSTILE[name], "x.onnx")
    except BundleError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 150 * FIELDS  # with the real limit, 75 MB


def test_a_file_of_too_many_fields_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_wire, "MAX_FIELDS", 1000)
    with pytest.raises(BundleError, match="more than 1000 fields"):
        parse_graph_header(HOSTILE["nodes"], "x.onnx")
    with pytest.raises(BundleError, match="at most 8 dimensions"):
        parse_graph_header(HOSTILE["packed dims"], "x.onnx")
