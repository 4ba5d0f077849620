"""The bundle format: a written bundle can be read, and every fault has its own error line."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from flux_core.bundle import ComponentSource
from flux_core.bundle.bundle import (
    MANIFEST_NAME,
    Bundle,
    FileEntry,
    Manifest,
    write_manifest,
)
from flux_core.bundle.files import MAX_JSON_BYTES, sha256_of
from flux_core.errors import BundleError

from .toy_bundle import ACTIONS, OPTIONAL, a_manifest, edit, golden_tensors, refusal, write_bundle


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_a_written_bundle_opens_with_the_same_manifest(directory: Path) -> None:
    bundle = Bundle.open(directory)
    assert replace(bundle.manifest, files={}) == a_manifest()
    assert bundle.config == {"transforms": []}
    assert bundle.norm_stats == {"toy": {}}
    assert bundle.golden().keys() == golden_tensors().keys()
    entry = bundle.manifest.files["tokenizer/tokenizer.json"]
    assert entry == FileEntry(sha256=sha256_of(bundle.path("tokenizer/tokenizer.json")), bytes=2)
    assert bundle.path("tokenizer").is_dir()
    assert not list(directory.glob("*.partial"))


def test_writing_again_replaces_the_manifest(directory: Path) -> None:
    (directory / "config.json").write_text('{"other": 1}')
    write_manifest(directory, a_manifest())
    assert Bundle.open(directory).config == {"other": 1}


def test_graphs_may_be_given_as_plain_dicts(directory: Path) -> None:
    plain = json.loads((directory / MANIFEST_NAME).read_text())["graphs"]
    written = write_manifest(directory, replace(a_manifest(), graphs=plain))
    assert written.graphs == a_manifest().graphs


def test_a_manifest_that_could_not_be_opened_is_not_written(directory: Path) -> None:
    before = (directory / MANIFEST_NAME).read_bytes()
    with pytest.raises(BundleError, match="action_horizon: expected an integer from 1 to 4096"):
        write_manifest(directory, replace(a_manifest(), action_horizon=0))
    assert (directory / MANIFEST_NAME).read_bytes() == before


def test_a_missing_weight_file_is_not_written_either(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="model.safetensors is not listed"):
        write_manifest(directory, a_manifest())


def test_a_path_that_is_not_listed_is_refused(directory: Path) -> None:
    with pytest.raises(BundleError, match="notes.txt: not in the bundle"):
        Bundle.open(directory).path("notes.txt")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert "no such directory" in refusal(tmp_path / "nowhere")


def test_a_directory_without_manifest_is_not_a_bundle(directory: Path) -> None:
    (directory / MANIFEST_NAME).unlink()
    assert "no manifest.json, so this is not a bundle" in refusal(directory)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "expected a JSON object, got 'list'"),
        (b'{"schema_version": NaN}', "NaN is not a JSON number"),
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"schema_version": ' + b"1" * 5000 + b"}", "not valid JSON"),
    ],
    ids=["cut", "not-utf8", "list", "nan", "repeated-key", "deep", "long-number"],
)
def test_a_manifest_that_is_not_json_is_refused(
    directory: Path, content: bytes, expected: str
) -> None:
    (directory / MANIFEST_NAME).write_bytes(content)
    assert expected in refusal(directory)


def test_a_gigantic_manifest_is_not_even_read(directory: Path) -> None:
    with (directory / MANIFEST_NAME).open("wb") as stream:
        stream.truncate(MAX_JSON_BYTES + 1)  # sparse
    assert "manifest.json: larger than" in refusal(directory)


@pytest.mark.parametrize("version", [0, 1, 4, "2", 2.0, True, 10**30])
def test_an_unknown_schema_version_is_refused(directory: Path, version: object) -> None:
    edit(directory, lambda data: data.update(schema_version=version))
    message = refusal(directory)
    assert "schema_version: expected 2 or 3, got" in message
    assert "or install the version of flux that wrote it" in message


def test_optional_sections_are_read_back_as_they_were_written(directory: Path) -> None:
    edit(directory, lambda data: data.update(OPTIONAL))
    manifest = Bundle.open(directory).manifest
    assert manifest.components == {
        "AlohaToPi": ComponentSource(distribution="flux-core", version="2026.11.0")
    }
    assert manifest.data_summary["action"] == {"min": (-1.5, 0), "q01": (-1.0, 0.1)}
    write_manifest(directory, manifest)
    assert Bundle.open(directory).manifest == manifest


@pytest.mark.parametrize("name", OPTIONAL)
def test_empty_sections_are_not_written(directory: Path, name: str) -> None:
    assert name not in json.loads((directory / MANIFEST_NAME).read_text())


@pytest.mark.parametrize("name", OPTIONAL)
def test_schema_2_is_read_and_has_no_optional_sections(directory: Path, name: str) -> None:
    edit(directory, lambda data: data.update(schema_version=2))
    manifest = Bundle.open(directory).manifest
    assert manifest.schema_version == 2
    assert write_manifest(directory, manifest).schema_version == 2
    edit(directory, lambda data: data.update({name: OPTIONAL[name]}))
    assert refusal(directory).startswith(f"manifest.json: unknown key '{name}'.")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("components", [], "components: expected an object of at most 1000 keys, got []"),
        ("components", {"A": "1.0"}, "components['A']: expected an object, got '1.0'"),
        ("components", {"A": {"version": "1"}}, "['A'].distribution: the key is missing"),
        ("data_summary", 3, "data_summary: expected an object, got 3"),
        ("data_summary", {"fps": "50"}, "data_summary['fps']: expected a number from"),
        ("data_summary", {"fps": True}, "data_summary['fps']: expected a number from"),
        ("data_summary", {"q": [0, None]}, "data_summary['q'][1]: expected a number from"),
        ("data_summary", {"q": [[[[[[[[[1]]]]]]]]]}, "expected at most 8 objects and lists"),
        ("robot_spec", {"jerk": 1e300}, "robot_spec['jerk']: expected a number from"),
        ("robot_spec", {"name": "x" * 1001}, "robot_spec['name']: expected a text of at most"),
        ("model_kind", "diffusion", "model_kind: expected one of flow_matching, got 'diffusion'"),
        ("model_options", [1], "model_options: expected an object, got [1]"),
    ],
)
def test_a_wrong_optional_section_is_named(
    directory: Path, name: str, value: object, expected: str
) -> None:
    edit(directory, lambda data: data.update({name: value}))
    assert expected in refusal(directory)


@pytest.mark.parametrize("name", sorted(Manifest.__dataclass_fields__.keys() - OPTIONAL.keys()))
def test_each_missing_key_is_named(directory: Path, name: str) -> None:
    edit(directory, lambda data: data.pop(name))
    assert refusal(directory).startswith(f"manifest.json: {name}: the key is missing.")


def test_an_unknown_key_is_named(directory: Path) -> None:
    edit(directory, lambda data: data.update(colour="red"))
    assert refusal(directory).startswith("manifest.json: unknown key 'colour'.")


def test_an_unknown_key_of_a_graph_is_named_with_its_path(directory: Path) -> None:
    edit(directory, lambda data: data["graphs"]["prefix"]["inputs"][0].update(colour="red"))
    assert "manifest.json: graphs.prefix.inputs[0]: unknown key 'colour'" in refusal(directory)


@pytest.mark.parametrize("wrong", [None, [], {}, "text", -1, True, 1e300])
@pytest.mark.parametrize(
    "name",
    ["control_hz", "image_height", "action_dim", "action_horizon", "num_inference_steps"],
)
def test_numbers_of_a_wrong_type_or_size_are_refused(
    directory: Path, name: str, wrong: object
) -> None:
    edit(directory, lambda data: data.update({name: wrong}))
    assert refusal(directory).startswith(f"manifest.json: {name}: expected ")


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("model", "gpt", "expected one of pi0, pi05, gr00t, got 'gpt'"),
        ("precision", "fp4", "expected one of fp32, bf16, fp16, int8, fp8, got 'fp4'"),
        ("robot", "", "expected a text"),
        ("robot", "stranger", "expected one of robots"),
        ("robots", [], "expected a list of 1 to 64 items"),
        ("cameras", "cam_a", "expected a list"),
        ("cameras", ["cam_a", "cam_a"], "expected each name once, got 'cam_a'"),
        ("cameras", ["cam_a"], "images: expected uint8 [1, 1, 6, 8, 3] from the manifest's sizes"),
        ("tasks", ["a"], "expected an object"),
        ("tasks", {"0": 1}, "tasks['0']: expected a text"),
        ("prompt", "\ud800", "expected valid Unicode text"),
        ("action_dim", 10**9, "expected an integer from 1 to 1024, got 1000000000"),
        ("action_dim", 4, "x_t: expected float32 [1, 5, 4] from the manifest's sizes"),
        ("execution_horizon", 6, "expected at most action_horizon (5), got 6"),
        ("rtc_valid_delays", [5], "expected delays below action_horizon (5)"),
        ("provenance", [], "expected an object"),
        ("graphs", {"prefix": {}}, "graphs.prefix.file: the key is missing"),
        ("files", {}, "config.json is not listed"),
    ],
)
def test_each_field_refuses_nonsense(
    directory: Path, name: str, wrong: object, expected: str
) -> None:
    def change(data: dict[str, Any]) -> None:
        if name == "graphs":
            data["graphs"]["prefix"].pop("file")
        else:
            data[name] = wrong

    edit(directory, change)
    assert expected in refusal(directory)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dtype": "object"}, "inputs[0].dtype: expected one of"),
        ({"dtype": "float32"}, "images: expected uint8"),
        ({"shape": [1, -2]}, "inputs[0].shape[1]: expected an integer"),
        ({"shape": [2**31, 2**31]}, "inputs[0].shape: expected at most"),
        ({"shape": [1] * 9}, "inputs[0].shape: expected a list of 0 to 8 items"),
        ({"name": "image_masks"}, "inputs: expected each name once"),
        ({"name": "pictures"}, "inputs: no input 'images'"),
    ],
)
def test_each_tensor_signature_refuses_nonsense(
    directory: Path, change: dict[str, Any], expected: str
) -> None:
    edit(directory, lambda data: data["graphs"]["prefix"]["inputs"][0].update(change))
    assert expected in refusal(directory)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", "C:/x", "\\\\host\\share", ".."]
)
def test_names_that_leave_the_bundle_are_refused(directory: Path, name: str) -> None:
    edit(directory, lambda data: data["files"].update({name: data["files"]["config.json"]}))
    assert "points outside the bundle" in refusal(directory)


@pytest.mark.parametrize("name", ["a b", "a//b", "./a", "", "a\n", "å", "\ud800", "x" * 300])
def test_odd_names_are_refused(directory: Path, name: str) -> None:
    edit(directory, lambda data: data["files"].update({name: data["files"]["config.json"]}))
    assert "manifest.json: files: expected a" in refusal(directory)


def test_a_graph_file_outside_the_bundle_is_refused(directory: Path) -> None:
    edit(directory, lambda data: data["graphs"]["prefix"].update(file="../prefix.onnx"))
    assert "graphs.prefix.file: '../prefix.onnx' points outside" in refusal(directory)


def test_a_graph_file_that_is_not_listed_is_refused(directory: Path) -> None:
    edit(directory, lambda data: data["graphs"]["prefix"].update(file="other.onnx"))
    assert "files: other.onnx is not listed" in refusal(directory)


def test_a_manifest_that_lists_itself_is_refused(directory: Path) -> None:
    edit(
        directory,
        lambda data: data["files"].update({"manifest.json": {"sha256": "0" * 64, "bytes": 1}}),
    )
    assert "must not list itself" in refusal(directory)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"sha256": "0" * 64},
        {"sha256": "XY", "bytes": 1},
        {"sha256": "0" * 64, "bytes": -1},
    ],
)
def test_a_malformed_file_entry_is_refused(directory: Path, entry: object) -> None:
    edit(directory, lambda data: data["files"].update({"prefix.onnx": entry}))
    assert "files['prefix.onnx']" in refusal(directory)


def test_a_missing_file_is_named(directory: Path) -> None:
    (directory / "prefix.onnx").unlink()
    assert refusal(directory).startswith("prefix.onnx: listed in the manifest, not in the bundle.")


def test_an_unlisted_file_is_named(directory: Path) -> None:
    (directory / "tokenizer" / "évil\n").write_text("x")
    message = refusal(directory)
    assert message.startswith("tokenizer/\\xe9vil\\n: in the bundle, not listed")


def test_a_cut_file_is_refused_by_its_size_even_without_verification(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"short")
    expected = "model.safetensors: size differs from the manifest (expected "
    assert refusal(directory, verify=False).startswith(expected)


def test_a_changed_file_is_refused_by_its_hash(directory: Path) -> None:
    (directory / "tokenizer" / "tokenizer.json").write_text("[]")
    message = refusal(directory)
    assert message.startswith("tokenizer/tokenizer.json: sha256 differs from the manifest (expe")
    assert message.endswith("The bundle is damaged: copy or export it again.")
    assert Bundle.open(directory, verify=False).manifest.robot == "toy"


@pytest.mark.parametrize("name", ["prefix.onnx", "manifest.json", "extra", "tokenizer"])
def test_symbolic_links_are_refused(directory: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "elsewhere"
    if (directory / name).exists():
        shutil.move(directory / name, target)
    (directory / name).symlink_to(target)
    assert refusal(directory).startswith(f"{name}: is a symbolic link.")


def test_special_files_are_refused(directory: Path) -> None:
    os.mkfifo(directory / "pipe")
    assert refusal(directory).startswith("pipe: not a plain file.")


@pytest.mark.parametrize("name", ["config.json", "norm_stats.json"])
def test_a_side_file_that_is_not_json_is_refused(directory: Path, name: str) -> None:
    (directory / name).write_text("nonsense")
    write_manifest(directory, a_manifest())
    assert refusal(directory).startswith(f"{name}: not valid JSON")


def golden_with(directory: Path, **changes: np.ndarray | None) -> str:
    tensors = golden_tensors() | {name.replace("__", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, directory / "golden.safetensors")
    write_manifest(directory, a_manifest())
    return refusal(directory)


def test_a_golden_is_checked_against_the_graphs(directory: Path) -> None:
    float32 = np.float32
    assert "no tensor 'input.noise'" in golden_with(directory, input__noise=None)
    wrong = golden_with(directory, input__images=np.zeros((1, 2, 6, 8, 3), float32))
    assert "input.images: expected uint8 [1, 2, 6, 8, 3], got float32" in wrong
    short = golden_with(directory, output__actions=np.zeros((1, 2, 3), float32))
    assert "output.actions: expected float32 [1, 5, 3], got float32 [1, 2, 3]" in short
    nan = golden_with(directory, output__x_next_first=np.full(ACTIONS, np.nan, float32))
    assert "output.x_next_first: expected finite numbers" in nan


def test_a_golden_that_is_not_a_safetensors_file_is_refused(directory: Path) -> None:
    (directory / "golden.safetensors").write_bytes(b"nonsense")
    write_manifest(directory, a_manifest())
    assert refusal(directory).startswith("golden.safetensors: ends within its header")


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("F8_E4M3", 1), ("nonsense", 1)])
def test_a_golden_of_a_type_that_numpy_lacks_is_refused(
    directory: Path, dtype: str, size: int
) -> None:
    header = json.dumps({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(size)
    (directory / "golden.safetensors").write_bytes(content)
    write_manifest(directory, a_manifest())
    # Another package may have added the type to numpy; then the tensor has the wrong type.
    assert refusal(directory).startswith("golden.safetensors: ")
