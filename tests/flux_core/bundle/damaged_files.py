"""Damage to a bundle's directory, manifest, golden, statistics, config and tokenizer."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from flux_core.bundle.bundle import MANIFEST_NAME
from flux_core.bundle.files import MAX_FILES, MAX_JSON_BYTES
from flux_core.config.deployable import uses
from flux_runtime.run.command import shipped_policy

from .damage_table import CASES, Case, Damage, altered, case, cut, json_file, removed, rows
from .toy_bundle import edit, hash_again

FILES = (
    "config.json",
    "denoise.onnx",
    "golden.safetensors",
    "model.safetensors",
    "norm_stats.json",
    "prefix.onnx",
    "report.json",
    "tokenizer/byte_tokenizer.json",
)
rows(cut, {name: f"{name}: size differs from the manifest" for name in FILES})
rows(altered, {name: f"{name}: sha256 differs from the manifest" for name in FILES})
rows(removed, {name: f"{name}: listed in the manifest, not in the bundle" for name in FILES})
rows(removed, {MANIFEST_NAME: "no manifest.json, so this is not a bundle"})


# The directory.


@case("notes.txt: in the bundle, not listed in the manifest. Remove the file")
def an_extra_file(path: Path) -> None:
    (path / "notes.txt").write_text("hello")


@case(f"more than {MAX_FILES} files. Is this a bundle?")
def the_wrong_directory(path: Path) -> None:
    for index in range(MAX_FILES):  # together with the bundle's files, too many
        (path / f"{index}.txt").touch()


@case("prefix.onnx: is a symbolic link. A bundle holds only plain files")
def a_link(path: Path) -> None:
    (path / "prefix.onnx").rename(path.parent / "moved")
    (path / "prefix.onnx").symlink_to(path.parent / "moved")


@case("tokenizer: is a symbolic link")
def a_linked_directory(path: Path) -> None:
    (path / "tokenizer").rename(path.parent / "moved")
    (path / "tokenizer").symlink_to(path.parent / "moved")


@case("golden.safetensors: not a plain file")
def a_named_pipe(path: Path) -> None:
    (path / "golden.safetensors").unlink()
    os.mkfifo(path / "golden.safetensors")


@case("report.json: not a plain file")
def a_device(path: Path) -> None:
    (path / "report.json").unlink()
    try:
        os.mknod(path / "report.json", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
    except OSError:
        os.mkfifo(path / "report.json")  # only root can create devices


@case("tokenizer/byte_tokenizer.json: expected a file, got a directory")
def a_directory_in_place_of_a_file(path: Path) -> None:
    (path / "tokenizer" / "byte_tokenizer.json").unlink()
    (path / "tokenizer" / "byte_tokenizer.json").mkdir()


@case("bundle: not a directory. Name the directory of a bundle")
def a_file_in_place_of_the_bundle(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


# The manifest as JSON.


def manifest_text(content: bytes) -> Damage:
    return lambda path: (path / MANIFEST_NAME).write_bytes(content)


for _name, _content, _expected in (
    ("an_empty_manifest", b"", "not valid JSON (Expecting value: line 1 column 1"),
    ("a_cut_manifest", b"{", "(Expecting property name enclosed in double quotes"),
    ("a_list", b"[]", "manifest.json: expected a JSON object, got 'list'"),
    ("not_utf8", b'{"a": "\xff"}', "not valid JSON ('utf-8' codec can't decode byte 0xff"),
    ("a_byte_order_mark", b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM"),
    ("nan", b'{"control_hz": NaN}', "NaN is not a JSON number"),
    ("infinity", b'{"control_hz": -Infinity}', "-Infinity is not a JSON number"),
    ("a_huge_number", b'{"control_hz": 1e999}', "1e999 is not a number of 64 bits"),
    ("a_long_integer", b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ("a_repeated_key", b'{"model": "pi0", "model": "pi05"}', "key 'model' appears twice"),
    (
        "a_deep_nest",
        b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}",
        "manifest.json: nested deeper than 64 levels",
    ),
):
    CASES.append(Case(_name, manifest_text(_content), _expected))


@case("manifest.json: nested too deeply")
def a_bottomless_nest(path: Path) -> None:
    (path / MANIFEST_NAME).write_bytes(b'{"a":' * 600_000)


@case(f"manifest.json: larger than {MAX_JSON_BYTES} bytes")
def a_gigantic_manifest(path: Path) -> None:
    os.truncate(path / MANIFEST_NAME, 2**40)


@case("manifest.json: unknown key 'k0'")
def a_manifest_of_a_million_keys(path: Path) -> None:
    keys = ",".join(f'"k{index}":0' for index in range(250_000))
    text = (path / MANIFEST_NAME).read_text().strip()
    (path / MANIFEST_NAME).write_text(f"{text[:-1]},{keys}}}")


# The manifest's fields.


def field(expected: str, **values: object) -> None:
    """Adds a row in which top-level fields of the manifest are replaced."""
    name = "_".join(f"{key}_{str(value)[:20]}" for key, value in values.items())
    CASES.append(Case(name, lambda path: edit(path, lambda data: data.update(values)), expected))


def place(expected: str, change: Callable[[dict[str, Any]], object], name: str) -> None:
    """Adds a row in which something inside the manifest is changed."""
    CASES.append(Case(name, lambda path: edit(path, change), expected))


def components(**distributions: str) -> dict[str, dict[str, str]]:
    """The manifest's section for the shipped policy, with some distributions replaced."""
    names = json.loads((shipped_policy("aloha-sim") / "config.json").read_text())
    written = {str(use.name): "flux-core" for use in uses(names)} | distributions
    return {name: {"distribution": of, "version": "1.0"} for name, of in written.items()}


field("schema_version: expected 2 or 3, got 1.", schema_version=1)
field("schema_version: expected 2 or 3, got 4.", schema_version=4)
field("schema_version: expected 2 or 3, got '2'.", schema_version="2")
field("schema_version: expected 2 or 3, got True.", schema_version=True)
place(
    "config.json: type: 'TrainConfig' is not in the manifest's",
    lambda data: data.update(components={}),
    "a_bundle_without_components",
)
place(
    "config.json: model.type: expected 'PI05FlowMatching' of 'acme' as in the manifest, got that "
    "of flux-core",
    lambda data: data.update(schema_version=3, components=components(PI05FlowMatching="acme")),
    "a_component_of_another_distribution",
)
field("cameras: expected each name once, got 'cam_high'", cameras=["cam_high", "cam_high"])
field("cameras: expected a list of 1 to 16 items, got []", cameras=[])
field("robot: expected one of robots", robot="franka")
field("action_dim: expected an integer from 1 to 1024, got -14", action_dim=-14)
field("action_dim: expected an integer from 1 to 1024, got 1099511627776", action_dim=2**40)
field("x_t: expected float32 [1, 32, 7] from the manifest's sizes", action_dim=7)
field("x_t: expected float32 [1, 20, 14] from the manifest's", action_horizon=20)
field("rtc_valid_delays: expected delays below action_horizon (16)", action_horizon=16)
field("state_dim: expected an integer from 1 to 1024, got 14.0", state_dim=14.0)
field("images: expected uint8 [1, 1, 100, 128, 3]", image_height=100)
field("lang_tokens: expected int64 [1, 33] from the manifest's sizes", max_prompt_tokens=33)
field("control_hz: expected a number from 0.1 to 2000, got 0", control_hz=0)
field("execution_horizon: expected at most action_horizon (32), got 33", execution_horizon=33)
field("manifest.json: tolerance: expected a number from 0 to ", tolerance=1e3)
field("files: config.json is not listed", files={})
place("graphs.denoise: the key is missing", lambda m: m["graphs"].pop("denoise"), "one_graph")
for _name in ("../secret", "/etc/passwd", "a/../../b", "C:/x", "\\\\host\\share"):
    place(
        f"files: {_name!r} points outside the bundle",
        lambda m, name=_name: m["files"].update({name: m["files"]["config.json"]}),
        f"lists_{_name}",
    )
place(
    "graphs.prefix.file: '../prefix.onnx' points outside the bundle",
    lambda m: m["graphs"]["prefix"].update(file="../prefix.onnx"),
    "a_graph_outside",
)
place(
    "files: expected a name of letters, digits and _.+=@-",
    lambda m: m["files"].update({"a\nb": m["files"]["config.json"]}),
    "a_name_of_two_lines",
)


def input_shape(shape: list[int], graph: str = "denoise", index: int = 4) -> Any:
    return lambda m: m["graphs"][graph]["inputs"][index].update(shape=shape)


place("inputs[4].shape[1]: expected an integer from 1", input_shape([1, 2**40]), "absurd_dim")
place("expected at most 268435456 elements", input_shape([2**20, 2**20]), "absurd_product")
place("inputs[4].shape[0]: expected an integer from 1", input_shape([-1, 4]), "negative_dim")
place("inputs[4].shape: expected a list of 0 to 8 items", input_shape([1] * 9), "nine_dims")
place(
    "input 'past_key_0': expected float32 [1, 1, 36, 32], which prefix.onnx gives, got float32 [1, "
    "36, 32]",
    input_shape([1, 36, 32]),
    "graphs_that_do_not_fit",
)
place(
    "output t_next: expected float32 [1, 32] as t, got float32 [1, 1]",
    lambda m: m["graphs"]["denoise"]["outputs"][1].update(shape=[1, 1]),
    "an_output_that_is_no_step",
)
place(
    "no output 'x_next'",
    lambda m: m["graphs"]["denoise"]["outputs"][0].update(name="x_now"),
    "an_output_of_another_name",
)


@case("manifest.json: prefix.onnx: expected inputs and outputs of at most 2147483648 bytes")
def many_absurd_tensors(path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for tensor in data["graphs"]["prefix"]["outputs"][1:]:
            tensor["shape"] = [2**28]

    edit(path, change)


@case("denoise.onnx: inputs: 'state': expected float32 [1, 7] as in the manifest, got float32 [1")
def other_dims_than_the_graph(path: Path) -> None:
    edit(path, input_shape([1, 7], index=0))


# Golden, statistics, config, tokenizer.


def golden(expected: str, name: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    def damage(path: Path) -> None:
        tensors = load_file(path / "golden.safetensors")
        change(tensors)
        save_file(tensors, path / "golden.safetensors")
        hash_again(path)

    CASES.append(Case(f"golden_{name}", damage, f"golden.safetensors: {expected}"))


def last_is_nan(tensors: dict[str, np.ndarray]) -> None:
    tensors["output.actions"][0, -1, -1] = np.nan


golden("no tensor 'input.noise'", "without_noise", lambda t: t.pop("input.noise"))
golden("no tensor 'input.state'", "without_state", lambda t: t.pop("input.state"))
golden("output.actions: expected finite numbers", "with_nan", last_is_nan)
golden(
    "output.actions: expected float32 [1, 32, 14], got float32 [1, 32, 7]",
    "of_seven_joints",
    lambda t: t.update({"output.actions": t["output.actions"][..., :7].copy()}),
)
golden(
    "input.images: expected uint8 [1, 1, 96, 128, 3], got float32",
    "of_float_images",
    lambda t: t.update({"input.images": t["input.images"].astype(np.float32)}),
)
golden(
    "input.lang_masks: expected a prompt of at most 32 tokens",
    "of_a_longer_prompt",
    lambda t: t.update({n: np.ones((1, 64), t[n].dtype) for n in list(t) if "lang_" in n}),
)


def stats(expected: str, name: str, change: Callable[[Any], object]) -> None:
    json_file(expected, f"stats_{name}", "norm_stats.json", lambda s: change(s["aloha-sim"]))


def narrow(feature: str, dims: int) -> Callable[[Any], None]:
    def change(features: Any) -> None:
        values = features[feature]
        features[feature] = {k: v if k == "count" else v[:dims] for k, v in values.items()}

    return change


stats(
    "dimensions of the state: expected 14 as in manifest and robot, got 7",
    "of_a_narrow_state",
    narrow("proprio", 7),
)
stats(
    "dimensions of actions: expected 14 as in manifest and robot, got 7",
    "of_narrow_actions",
    narrow("action", 7),
)
stats(
    "norm_stats.json['aloha-sim']['action']: expected lists of one length, got [13, 14]",
    "of_two_lengths",
    lambda s: s["action"]["std"].pop(),
)
stats(
    "norm_stats.json['aloha-sim']['action'].std[0]: expected a number from 0 to 1e+30, got -1.0",
    "with_a_negative_std",
    lambda s: s["action"]["std"].__setitem__(0, -1.0),
)
stats("'action'].q99: the key is missing", "without_q99", lambda s: s["action"].pop("q99"))
stats(
    "norm_stats: expected statistics of 'action', got ['proprio']",
    "without_actions",
    lambda s: s.pop("action"),
)
json_file(
    "norm_stats: inference.statistic_name: expected one of ur3, ur5 for robot 'aloha-sim'",
    "stats_of_other_robots",
    "norm_stats.json",
    lambda s: s.update({"ur3": s["aloha-sim"], "ur5": s.pop("aloha-sim")}),
)


@case("norm_stats.json: not valid JSON (Infinity is not a JSON number)")
def infinite_statistics(path: Path) -> None:
    text = (path / "norm_stats.json").read_text()
    (path / "norm_stats.json").write_text(re.sub(r"-?\d+\.\d+", "Infinity", text, count=1))
    hash_again(path)


def config(expected: str, name: str, change: Callable[[Any], object]) -> None:
    json_file(expected, f"config_{name}", "config.json", lambda c: change(c["inference"]))


config(
    "config.json: inference.dataset.transforms[0].type: 'antigravity:Sky' is the path of a class",
    "that_names_code",
    lambda c: c["dataset"]["transforms"][0].update(type="antigravity:Sky"),
)
config(
    "config.json: inference.type: 'Nothing' has no entry point of its own in flux.components.",
    "of_nothing",
    lambda c: c.update(type="Nothing"),
)
json_file(
    "config.json: model.type: 'antigravity:Sky' is the path of a class",
    "a_model_that_names_code",
    "config.json",
    lambda c: c["model"].update(type="antigravity:Sky"),
)
json_file(
    "transforms[3].tokenizer.type: 'antigravity:Sky' is the path of a class",
    "a_trained_transform_that_names_code",
    "config.json",
    lambda c: c["train_dataloader"]["dataset"]["datasets"]["transforms"][3]["tokenizer"].update(
        type="antigravity:Sky"
    ),
)
config(
    "inference.dataset.transforms[1].type: expected a component of kind 'transform', got "
    "'LinearProjector', which flux-core registers as 'projector'",
    "of_a_wrong_kind",
    lambda c: c["dataset"]["transforms"][1].update(type="LinearProjector"),
)
config(
    "config.json: inference.task_descriptions.1.type: no component is expected here",
    "with_a_component_where_none_is_expected",
    lambda c: c["task_descriptions"].update({"1": {"type": "AlohaToPi"}}),
)
config(
    "config.json: inference.type: expected the name of a component, got ['AlohaToPi']",
    "with_a_list_for_a_name",
    lambda c: c.update(type=["AlohaToPi"]),
)
config(
    "inference.seeds: AlohaSimInferenceRunner has no field 'seeds'",
    "with_an_unknown_key",
    lambda c: c.update(seeds=1),
)
config(
    "inference: cameras: expected ('cam_high',) as in manifest and robot, got ('cam_left_wrist',)",
    "of_another_camera",
    lambda c: c["dataset"].update(img_keys=["cam_left_wrist"]),
)
json_file(
    "inference: expected InferenceRunner, got None",
    "config_without_inference",
    "config.json",
    lambda c: c.pop("inference"),
)


@case("config.json: inference: robot: expected 'aloha-sim'")
def config_of_a_robot(path: Path) -> None:
    """Of another one, which the manifest names as a component too."""
    config = json.loads((path / "config.json").read_text())
    config["inference"]["robot"] = "aloha"
    (path / "config.json").write_text(json.dumps(config))
    hash_again(path)
    edit(path, lambda data: data["components"].update(aloha=data["components"]["RobotSpec"]))


@case("no tokenizer/byte_tokenizer.json, which config.json's ByteTokenizer needs")
def no_tokenizer(path: Path) -> None:
    shutil.rmtree(path / "tokenizer")
    edit(path, lambda data: data["files"].pop("tokenizer/byte_tokenizer.json"))
