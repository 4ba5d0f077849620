"""The manifest of a bundle: its fields, and the checks that every manifest passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from .._components import NETWORKS
from ..errors import BundleError
from .checks import (
    AGAIN,
    TENSOR_DTYPES,
    Checker,
    fail,
    file_name,
    integer,
    mapping,
    number,
    one_of,
    plain_object,
    record,
    sequence,
    sha256_text,
    show,
    tensor_shape,
    text,
    unique,
)

SCHEMA_VERSION = 3
READ_VERSIONS = (2, SCHEMA_VERSION)
"""Version 2 has no optional sections, and its config names only components of flux."""
MANIFEST_NAME = "manifest.json"
FP32_TOLERANCE = 1e-4
"""float32 rounding (6e-8) grows over the layers and the Euler steps; a different summation order
moves actions by about 1e-6 to 1e-5, a wrong graph or transform by 1e-2 and more."""
MAX_TOLERANCE = 1.0
FLOW_MATCHING = "flow_matching"
READS_STATE = "reads_state"
"""The key of `Manifest.model_options` that says whether the denoise graph reads the state."""


@dataclass(frozen=True, kw_only=True)
class TensorSignature:
    """One input or output of a graph: name, numpy dtype name, static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSignature:
    """One ONNX graph: its file inside the bundle and its tensors in order."""

    file: str
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file in the manifest: a hash of 64 hexadecimal digits and a size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ComponentSource:
    """Where a component that config.json names comes from.

    Attributes:
        distribution: the installed package that registers its name.
        version: of the distribution when the bundle was exported.
    """

    distribution: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json.

    The sections from `components` on are optional, and new in version 3.

    Attributes:
        schema_version: of this format.
        model: the kind of network: 'pi0', for instance.
        robot: the robot that this bundle drives by default.
        robots: all robots whose statistics it carries.
        control_hz: actions per second.
        cameras: names in the order of the graph's images.
        image_height, image_width: pixels the prefix graph takes.
        state_dim, action_dim: widths of state and action.
        action_horizon: steps predicted per chunk.
        execution_horizon: steps executed before the next chunk.
        num_inference_steps: Euler steps from noise to actions.
        max_prompt_tokens: width of lang_tokens.
        prompt: the task if none is given.
        tasks: id -> task in words.
        precision: what the network is computed in: 'fp32', 'bf16', 'fp16', 'fp8', or 'int8'
            (its weights).
        tolerance: largest error of normalised actions, against PyTorch in float32, with which an
            engine may drive a robot; 1e-4 in float32, measured at export otherwise.
        graphs: 'prefix' and 'denoise'.
        prompt_buckets: number of tokens -> graphs for prompts of at most that many.
        rtc_valid_delays: inference delays, in control steps, the policy was trained for.
        files: relative name -> size and hash, of every file but manifest.json.
        provenance: where the bundle comes from, free form.
        components: each `type` in config.json -> the distribution that registers it.
        data_summary: of the training set: any names -> numbers, lists of numbers, or names again;
            such as limits, quantiles and start pose per joint, image statistics, fps, episodes.
        robot_spec: further facts from the robot's driver, such as acceleration, jerk and
            kinematics; plain data.
        model_kind: how the graphs make actions: 'flow_matching' (prefix once, denoise per step).
        model_options: settings of that kind; plain data.
    """

    schema_version: int = SCHEMA_VERSION
    model: str
    robot: str
    robots: tuple[str, ...]
    control_hz: float
    cameras: tuple[str, ...]
    image_height: int
    image_width: int
    state_dim: int
    action_dim: int
    action_horizon: int
    execution_horizon: int
    num_inference_steps: int
    max_prompt_tokens: int
    prompt: str
    tasks: Mapping[str, str]
    precision: str
    tolerance: float = FP32_TOLERANCE
    graphs: Mapping[str, GraphSignature]
    prompt_buckets: Mapping[int, Mapping[str, GraphSignature]] = field(
        default_factory=dict[int, Mapping[str, GraphSignature]]
    )
    rtc_valid_delays: tuple[int, ...] = (0,)
    files: Mapping[str, FileEntry] = field(default_factory=dict[str, FileEntry])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    components: Mapping[str, ComponentSource] = field(default_factory=dict[str, ComponentSource])
    data_summary: Mapping[str, Any] = field(default_factory=dict[str, Any])
    robot_spec: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model_kind: str = FLOW_MATCHING
    model_options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def reads_state(self) -> bool:
        """Whether the denoise graph reads the state; older bundles say so by their kind alone."""
        return bool(self.model_options.get(READS_STATE, self.model == "pi0"))

    def bucket_for(self, prompt_tokens: int) -> int | None:
        """The smallest bucket for so many tokens; None if only the graphs for any prompt fit."""
        return min((size for size in self.prompt_buckets if size >= prompt_tokens), default=None)


def parse_manifest(data: object) -> Manifest:
    """Checks plain data against the schema.

    Raises:
        BundleError: an unknown schema version, a missing or unknown key, a wrong type, a size out
            of bounds, or two fields that contradict each other.
    """
    where = f"{MANIFEST_NAME}: "
    if not isinstance(data, dict):
        fail(MANIFEST_NAME, "a JSON object", type(data).__name__)
    version: Any = data.get("schema_version")
    if version is None:
        raise BundleError(f"{where}schema_version: the key is missing. {AGAIN}")
    if type(version) is not int or version not in READ_VERSIONS:
        raise BundleError(
            f"{where}schema_version: expected "
            f"{' or '.join(map(str, READ_VERSIONS))}, got {show(version)}. Export the bundle "
            "again, or install the version of flux that wrote it."
        )
    optional = _OPTIONAL_CHECKERS if version >= 3 else {}
    manifest = Manifest(**record(where, data, _MANIFEST_CHECKERS, optional))
    _check_consistency(manifest)
    return manifest


def manifest_data(manifest: Manifest) -> dict[str, Any]:
    """Returns a manifest as plain data for JSON, without empty optional sections."""
    defaults = {entry.name: entry.default for entry in fields(Manifest)}
    data: dict[str, Any] = to_plain(manifest)
    for name in _OPTIONAL_CHECKERS:
        if data[name] in ({}, defaults[name]):
            del data[name]
    return data


def to_plain(value: Any) -> Any:
    """Turns dataclasses, mappings and tuples into plain data for JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: to_plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    return value


def _tensor_signature(where: str, value: Any) -> TensorSignature:
    return TensorSignature(
        **record(
            where,
            value,
            {"name": text(max_length=200), "dtype": one_of(*TENSOR_DTYPES), "shape": tensor_shape},
        )
    )


def _graph_signature(where: str, value: Any) -> GraphSignature:
    tensors = sequence(_tensor_signature, low=1, high=1000)
    graph = GraphSignature(
        **record(where, value, {"file": file_name, "inputs": tensors, "outputs": tensors})
    )
    for side in ("inputs", "outputs"):
        unique([tensor.name for tensor in getattr(graph, side)], f"{where}.{side}")
    return graph


def _file_entry(where: str, value: Any) -> FileEntry:
    return FileEntry(**record(where, value, {"sha256": sha256_text, "bytes": integer(0, 2**50)}))


def _files(where: str, value: Any) -> dict[str, FileEntry]:
    entries = mapping(_file_entry)(where, value)
    return {file_name(where, name): entry for name, entry in entries.items()}


def _graphs(where: str, value: Any) -> dict[str, GraphSignature]:
    return record(where, value, {"prefix": _graph_signature, "denoise": _graph_signature})


def _buckets(where: str, value: Any) -> dict[int, dict[str, GraphSignature]]:
    entries = mapping(_graphs)(where, value)
    for name in entries:
        if not (name.isascii() and name.isdigit() and len(name) < 6 and name == str(int(name))):
            fail(where, "numbers of tokens", name)
    return {int(name): graphs for name, graphs in entries.items()}


def _free_object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        fail(where, "an object", value)
    return dict(value)


def _component_source(where: str, value: Any) -> ComponentSource:
    checkers = {name: text(max_length=200) for name in ("distribution", "version")}
    return ComponentSource(**record(where, value, checkers))


_NAMES = sequence(text(max_length=100), low=1, high=64)
_MANIFEST_CHECKERS: dict[str, Checker[Any]] = {
    "schema_version": integer(READ_VERSIONS[0], SCHEMA_VERSION),
    "model": one_of(*NETWORKS),
    "robot": text(max_length=100),
    "robots": _NAMES,
    "control_hz": number(0.1, 2000.0),
    "cameras": sequence(text(max_length=100), low=1, high=16),
    "image_height": integer(1, 4096),
    "image_width": integer(1, 4096),
    "state_dim": integer(1, 1024),
    "action_dim": integer(1, 1024),
    "action_horizon": integer(1, 4096),
    "execution_horizon": integer(1, 4096),
    "num_inference_steps": integer(1, 1000),
    "max_prompt_tokens": integer(1, 65536),
    "prompt": text(allow_empty=True),
    "tasks": mapping(text()),
    "precision": one_of("fp32", "bf16", "fp16", "int8", "fp8"),
    "tolerance": number(0.0, MAX_TOLERANCE),
    "graphs": _graphs,
    "prompt_buckets": _buckets,
    "rtc_valid_delays": sequence(integer(0, 4096), low=1, high=4096),
    "files": _files,
    "provenance": _free_object,
}
_OPTIONAL_CHECKERS: dict[str, Checker[Any]] = {
    "components": mapping(_component_source, high=1000),
    "data_summary": plain_object(texts=False),
    "robot_spec": plain_object(texts=True),
    "model_kind": one_of(FLOW_MATCHING),
    "model_options": plain_object(texts=True),
}


def _check_consistency(manifest: Manifest) -> None:
    """Refuses fields that contradict each other."""
    where = MANIFEST_NAME
    unique(manifest.cameras, f"{where}: cameras")
    unique(manifest.robots, f"{where}: robots")
    if manifest.robot not in manifest.robots:
        fail(f"{where}: robot", f"one of robots {show(list(manifest.robots))}", manifest.robot)
    horizon = manifest.action_horizon
    if manifest.execution_horizon > horizon:
        fail(
            f"{where}: execution_horizon",
            f"at most action_horizon ({horizon})",
            manifest.execution_horizon,
        )
    if max(manifest.rtc_valid_delays) >= horizon:
        fail(
            f"{where}: rtc_valid_delays",
            f"delays below action_horizon ({horizon})",
            list(manifest.rtc_valid_delays),
        )
    _check_graph_shapes(manifest)


def _check_graph_shapes(manifest: Manifest) -> None:
    """Refuses graphs whose tensors do not have the manifest's sizes."""
    where, most = MANIFEST_NAME, manifest.max_prompt_tokens
    _check_shapes(manifest, f"{where}: graphs", manifest.graphs, most)
    for tokens, graphs in manifest.prompt_buckets.items():
        if not 1 <= tokens < most:
            fail(f"{where}: prompt_buckets", f"1 to {most - 1} tokens (max_prompt_tokens)", tokens)
        _check_shapes(manifest, f"{where}: prompt_buckets.{tokens}", graphs, tokens)


def _check_shapes(
    manifest: Manifest, place: str, graphs: Mapping[str, GraphSignature], tokens: int
) -> None:
    size = (manifest.image_height, manifest.image_width, 3)
    cameras = len(manifest.cameras)
    actions = (1, manifest.action_horizon, manifest.action_dim)
    expected = {
        "prefix": {
            "images": ("uint8", (1, cameras, *size)),
            "image_masks": ("bool", (1, cameras)),
            "lang_tokens": ("int64", (1, tokens)),
            "lang_masks": ("bool", (1, tokens)),
        },
        "denoise": {
            "x_t": ("float32", actions),
            "t": ("float32", (1, manifest.action_horizon)),
        },
    }
    for graph_name, tensors in expected.items():
        found = {entry.name: entry for entry in graphs[graph_name].inputs}
        for name, (dtype, shape) in tensors.items():
            where = f"{place}.{graph_name}.inputs"
            if name not in found:
                raise BundleError(f"{where}: no input {name!r}. {AGAIN}")
            if (found[name].dtype, found[name].shape) != (dtype, shape):
                got = f"{found[name].dtype} {list(found[name].shape)}"
                raise BundleError(
                    f"{where}: {name}: expected {dtype} {list(shape)} from the manifest's sizes, "
                    f"got {got}. {AGAIN}"
                )
