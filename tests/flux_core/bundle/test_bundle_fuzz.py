"""Random damage: whatever the bytes, a bundle opens or is refused with one line.

FLUX_FUZZ_EXAMPLES sets how many examples each test tries; scripts/fuzz.sh bundle runs for minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from flux_core.bundle.bundle import MANIFEST_NAME, Bundle, Manifest, parse_manifest
from flux_core.bundle.files import parse_json_object
from flux_core.bundle.onnx_header import parse_graph_header
from flux_core.bundle.safetensors_header import read_safetensors_header
from flux_core.errors import BundleError, MissingDependencyError
from flux_core.policy_io import PolicyIO
from flux_runtime.run.command import shipped_policy

from .test_onnx_header import header_by_onnx
from .toy_bundle import OPTIONAL, edit, hash_again, locations, write_bundle

FUZZ = settings(
    max_examples=int(os.environ.get("FLUX_FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MAX_SECONDS = 5.0
MAX_PEAK_BYTES = 32 * 2**20
EXAMPLES: dict[str, int] = {}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 2**31, 2**40, 2**63, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None), max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_bundle(tmp_path_factory.mktemp("fuzz") / "bundle")
    edit(path, lambda data: data.update(OPTIONAL))
    return path


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("policy") / "bundle"
    return Bundle.open(shutil.copytree(shipped_policy("aloha-sim"), path))


@pytest.fixture(autouse=True, scope="module")
def counted() -> Iterator[None]:
    """Prints how many examples were tried (visible with pytest -s)."""
    yield
    print("\nexamples:", sum(EXAMPLES.values()), EXAMPLES)


@contextmanager
def cheap(name: str) -> Iterator[None]:
    """Refusals are one line, nothing takes much time or memory, and no other error is raised."""
    EXAMPLES[name] = EXAMPLES.get(name, 0) + 1
    tracemalloc.start()
    began = time.perf_counter()
    try:
        yield
    except BundleError as error:
        assert "\n" not in str(error) and str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES
    assert time.perf_counter() - began < MAX_SECONDS


@contextmanager
def restored(path: Path, *names: str) -> Iterator[None]:
    """Restores the files afterwards."""
    before = {name: (path / name).read_bytes() for name in names}
    try:
        yield
    finally:
        for name, content in before.items():
            (path / name).write_bytes(content)


def open_all(path: Path) -> None:
    Bundle.open(path).golden()


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with pieces overwritten, removed, inserted or repeated."""
    patches = st.binary(max_size=12) | st.sampled_from(
        [b"\xff" * 10, b"\x00" * 8, b"BF16", b"../x", b"-1", b"1e999", b"99999999999999999999"]
    )
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.integers(0, 16) | st.integers(0, 4000)))
        patch = draw(patches | st.just(content[begin:end] * 2))
        content = content[:begin] + patch + content[end:]
    return content


def mutated(data: st.DataObject, tree: Any) -> Any:
    """Plain data in which one to three values are replaced, removed or renamed."""
    tree = deepcopy(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        trails = [trail for trail in locations(tree) if trail]
        if not trails:
            break
        *trail, last = data.draw(st.sampled_from(trails))
        parent: Any = tree
        for key in trail:
            parent = parent[key]
        action = data.draw(st.sampled_from(["replace", "borrow", "remove", "rename"]))
        if action == "replace":
            parent[last] = data.draw(JSON)
        elif action == "borrow":
            source: Any = tree
            for key in data.draw(st.sampled_from(trails)):
                source = source[key]
            parent[last] = deepcopy(source)
        else:
            value = parent.pop(last)
            if action == "rename" and isinstance(parent, dict):
                parent[data.draw(st.text(max_size=8))] = value
    return tree


@FUZZ
@given(data=st.data())
def test_a_flipped_byte_is_refused_or_changes_nothing(pristine: Path, data: st.DataObject) -> None:
    listed = json.loads((pristine / MANIFEST_NAME).read_text())["files"]
    name = data.draw(st.sampled_from([*listed, MANIFEST_NAME]))
    changed = bytearray((pristine / name).read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with restored(pristine, name):
        (pristine / name).write_bytes(changed)
        with cheap("flipped byte"):
            open_all(pristine)
            assert name == MANIFEST_NAME  # a letter of the prompt


@FUZZ
@given(data=st.data())
def test_a_forged_file_is_refused_or_read(pristine: Path, data: st.DataObject) -> None:
    listed = json.loads((pristine / MANIFEST_NAME).read_text())["files"]
    name = data.draw(st.sampled_from(sorted(listed)))
    content = data.draw(damaged((pristine / name).read_bytes()))
    with restored(pristine, name, MANIFEST_NAME):
        (pristine / name).write_bytes(content)
        hash_again(pristine)
        with cheap("forged file"):
            open_all(pristine)


@FUZZ
@given(data=st.data())
def test_a_manifest_of_any_bytes_is_refused_or_read(pristine: Path, data: st.DataObject) -> None:
    content = (pristine / MANIFEST_NAME).read_bytes()
    with cheap("manifest bytes"):
        parse_manifest(parse_json_object(data.draw(damaged(content) | st.binary()), MANIFEST_NAME))


@FUZZ
@given(data=st.data())
def test_a_mutated_manifest_is_refused_or_still_valid(policy: Bundle, data: st.DataObject) -> None:
    manifest = json.loads((policy.directory / MANIFEST_NAME).read_text())
    changed = mutated(data, manifest)
    with cheap("manifest tree"):
        assert isinstance(parse_manifest(changed), Manifest)


@FUZZ
@given(data=st.data())
def test_a_mutated_manifest_never_opens_files_that_contradict_it(
    pristine: Path, data: st.DataObject
) -> None:
    manifest = json.loads((pristine / MANIFEST_NAME).read_text())
    changed = mutated(data, manifest)
    with restored(pristine, MANIFEST_NAME):
        (pristine / MANIFEST_NAME).write_text(json.dumps(changed))
        with cheap("manifest and files"):
            open_all(pristine)
            assert changed["graphs"].keys() == manifest["graphs"].keys()
            for name, graph in manifest["graphs"].items():
                found = changed["graphs"][name]
                assert [found[side] for side in ("inputs", "outputs")] == [
                    graph[side] for side in ("inputs", "outputs")
                ]


@FUZZ
@given(data=st.data())
def test_a_graph_of_any_bytes_is_refused_or_read_as_onnx_does(
    pristine: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["prefix.onnx", "denoise.onnx"]))
    content = data.draw(damaged((pristine / name).read_bytes()))
    agrees_with_onnx(content, "graph bytes")


def agrees_with_onnx(content: bytes, count_as: str) -> None:
    with cheap(count_as):
        header = parse_graph_header(content, "x.onnx")
        try:
            expected = header_by_onnx(content)
        except (DecodeError, ValueError):
            return  # for example text that is not UTF-8; the engine refuses it too
        assert header == expected


@st.composite
def wire_messages(draw: st.DrawFn, depth: int = 0) -> bytes:
    """A message of a few fields with ONNX's numbers, and nested ones of the same kind."""
    result = b""
    numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 20, 25, 2**28]
    for _ in range(draw(st.integers(0, 6))):
        number = draw(st.sampled_from(numbers))
        wire = draw(st.sampled_from([0, 1, 2, 2, 2, 5, 3, 7]))
        result += varint(number << 3 | wire)
        if wire == 0:
            result += varint(draw(st.integers(0, 20) | st.integers(0, 2**64)))
        elif wire == 2:
            inner = draw(st.binary(max_size=6) | wire_messages(depth + 1)) if depth < 6 else b""
            result += varint(len(inner)) + inner
        else:
            result += bytes(8 if wire == 1 else 4)
    return result


def varint(value: int) -> bytes:
    result = b""
    while value > 127:
        result += bytes([value & 127 | 128])
        value >>= 7
    return result + bytes([value])


@FUZZ
@given(content=wire_messages())
def test_any_protobuf_message_is_refused_or_read_as_onnx_does(content: bytes) -> None:
    agrees_with_onnx(b"\x3a" + varint(len(content)) + content, "wire messages")


def proto_values(message: Any, trail: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all scalar fields inside a protobuf message."""
    for descriptor, value in message.ListFields():
        repeated = not isinstance(value, (int, float, str, bytes)) and not hasattr(
            value, "ListFields"
        )
        entries = list(enumerate(value)) if repeated else [(None, value)]
        for index, entry in entries:
            here = (*trail, (descriptor.name, index))
            if hasattr(entry, "ListFields"):
                yield from proto_values(entry, here)
            else:
                yield here


@FUZZ
@given(data=st.data())
def test_a_graph_of_any_values_is_refused_or_read_as_onnx_does(
    pristine: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["prefix.onnx", "denoise.onnx"]))
    model = onnx.load(pristine / name, load_external_data=False)
    for _ in range(data.draw(st.integers(1, 3))):
        *trail, (field, index) = data.draw(st.sampled_from(list(proto_values(model))))
        parent: Any = model
        for step, position in trail:
            parent = getattr(parent, step)
            parent = parent if position is None else parent[position]
        old = getattr(parent, field) if index is None else getattr(parent, field)[index]
        new: Any = data.draw(
            st.sampled_from(["", "../x", "model.safetensors", "0", "-1", "9" * 18, "images"])
            if isinstance(old, str)
            else st.binary(max_size=40)
            if isinstance(old, bytes)
            else st.integers(-1, 30) | st.sampled_from([2**30, 2**31 - 1])
        )
        with suppress(ValueError):  # an enumerator that does not exist
            if index is None:
                setattr(parent, field, new)
            else:
                getattr(parent, field)[index] = new
    content = model.SerializeToString()
    agrees_with_onnx(content, "graph values")
    before = header_by_onnx((pristine / name).read_bytes())
    with restored(pristine, name, MANIFEST_NAME):
        (pristine / name).write_bytes(content)
        hash_again(pristine)
        with cheap("graph values in a bundle"):
            open_all(pristine)
            after = header_by_onnx(content)
            assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
            places = {(t.location, t.offset, t.length) for t in before.external}
            assert {(t.location, t.offset, t.length) for t in after.external} <= places


@FUZZ
@given(data=st.data())
def test_a_safetensors_header_is_refused_or_read_as_the_library_does(
    pristine: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["golden.safetensors", "model.safetensors"]))
    content = (pristine / name).read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    if data.draw(st.booleans()):
        header = json.dumps(mutated(data, json.loads(content[8:begin]))).encode()
        content = len(header).to_bytes(8, "little") + header + content[begin:]
    else:
        content = data.draw(damaged(content[:begin])) + content[begin:]
    with restored(pristine, name):
        (pristine / name).write_bytes(content)
        with cheap("safetensors header"):
            stored = read_safetensors_header(pristine / name, name)
            try:
                with safe_open(pristine / name, framework="numpy") as file:
                    names = list(file.keys())
                    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in names}
            except SafetensorError:
                return  # for example a key that the format does not have
            assert shapes == {key: tensor.shape for key, tensor in stored.items()}


@FUZZ
@given(data=st.data())
def test_a_config_of_any_values_makes_a_policy_or_is_refused(
    policy: Bundle, data: st.DataObject
) -> None:
    inference = {**policy.config, "inference": mutated(data, policy.config["inference"])}
    config = inference if data.draw(st.booleans()) else mutated(data, policy.config)
    become_a_policy(replace(policy, config=config), "config tree")


@FUZZ
@given(data=st.data())
def test_statistics_of_any_values_make_a_policy_or_are_refused(
    policy: Bundle, data: st.DataObject
) -> None:
    changed = mutated(data, policy.norm_stats)
    become_a_policy(replace(policy, norm_stats=changed), "statistics tree")


def become_a_policy(changed: Bundle, count_as: str) -> None:
    from flux_core.bundle.settings import check_config, check_norm_stats

    with cheap(count_as):
        check_config(changed.config, changed.manifest)
        check_norm_stats(changed.norm_stats)
        try:
            PolicyIO.from_bundle(changed)
        except MissingDependencyError as error:
            assert "\n" not in str(error)
