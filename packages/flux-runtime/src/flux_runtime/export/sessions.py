"""Runs a bundle's graphs on the processor, to verify them; robots use the engines in C++."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Bundle


class GraphSession(Protocol):
    """The part of an `onnxruntime.InferenceSession` that is used here."""

    def get_inputs(self) -> Sequence[Any]: ...

    def get_outputs(self) -> Sequence[Any]: ...

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]], /) -> Any: ...


def verifying_engine(bundle: Bundle) -> str:
    """Returns what verifies this bundle, for reports.

    ONNX Runtime has no bfloat16 on the processor. OpenVINO has it; without OpenVINO, ONNX Runtime
    runs the graphs as `emulate_bfloat16` rewrites them.
    """
    if bundle.manifest.precision not in ("bf16", "fp8"):
        return "ONNX Runtime"
    if importlib.util.find_spec("openvino") is not None:
        return "OpenVINO"
    return "ONNX Runtime with emulated bfloat16"


def open_session(bundle: Bundle, graph: str, num_threads: int) -> GraphSession:
    """Opens a graph in the verifying engine; with 0 threads, the engine decides."""
    file = bundle.path(bundle.manifest.graphs[graph].file)
    engine = verifying_engine(bundle)
    if engine == "OpenVINO":
        return OpenVINOSession(file, num_threads)
    return _onnxruntime_session(file, num_threads, is_emulated=engine != "ONNX Runtime")


def _onnxruntime_session(path: Path, num_threads: int, *, is_emulated: bool) -> GraphSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    source: str | bytes = str(path)
    if is_emulated:
        import onnx

        from .precision.emulation import emulate_bfloat16

        source = emulate_bfloat16(onnx.load(path, load_external_data=False)).SerializeToString()
        folder = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(folder, str(path.parent))
        # Otherwise all weights would be converted to float32 at once, and stay in memory.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class OpenVINOSession:
    """A graph in OpenVINO with ONNX Runtime's interface; bfloat16 arrays use `ml_dtypes`."""

    def __init__(self, path: Path, num_threads: int) -> None:
        import openvino

        self._openvino = openvino
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": num_threads}
        model = openvino.Core().compile_model(str(path), "CPU", settings)
        self._request = model.create_infer_request()
        self._inputs, self._outputs = (
            [_Name(p.any_name) for p in side] for side in (model.inputs, model.outputs)
        )

    def get_inputs(self) -> Sequence[Any]:
        """Objects with a `name`."""
        return self._inputs

    def get_outputs(self) -> Sequence[Any]:
        """Objects with a `name`."""
        return self._outputs

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]]) -> Any:
        """Returns the outputs `names`, or all of them."""
        for name, value in feeds.items():
            self._request.set_tensor(name, self._tensor(np.ascontiguousarray(value)))
        self._request.infer()
        wanted = names or [output.name for output in self._outputs]
        return [self._array(self._request.get_tensor(name)) for name in wanted]

    def _tensor(self, value: NDArray[Any]) -> Any:
        if value.dtype.name == "bfloat16":
            bits = value.view(np.uint16)
            return self._openvino.Tensor(bits, value.shape, self._openvino.Type.bf16)
        return self._openvino.Tensor(value)

    def _array(self, tensor: Any) -> NDArray[Any]:
        value = np.array(tensor.data)
        if tensor.element_type == self._openvino.Type.bf16:
            import ml_dtypes

            return value.view(ml_dtypes.bfloat16)
        return value


@dataclass(frozen=True)
class _Name:
    name: str
