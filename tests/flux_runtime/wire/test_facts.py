"""What a server says of its policy: enough for a robot without the bundle, checked as a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from flux_core.agreement import Changes, datasets_of
from flux_core.bundle import Bundle, ComponentSource
from flux_core.errors import BundleError
from flux_core.robots import ROBOT_SPECS, GripperClosing, carried_robot
from flux_runtime.chunking import ChunkFacts, trained_delays
from flux_runtime.control.agreement import agreed_bundle
from flux_runtime.control.preflight import check_bundle_fits, spec_in_force
from flux_runtime.control.session import default_prompt, tasks_of
from flux_runtime.deployment.facts import DeploymentFacts
from flux_runtime.robots.recordings import recorded_robot
from flux_runtime.wire import METADATA_BOUNDS, PolicyFacts, WireError, pack, unpack

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def far(facts: PolicyFacts) -> PolicyFacts:
    """The facts as a robot has them."""
    return PolicyFacts.from_data(unpack(pack(facts.as_data()), METADATA_BOUNDS))


@pytest.fixture
def remote(far: PolicyFacts) -> Bundle:
    """A bundle without files."""
    place = Path("wss://gpu:8000")
    return Bundle(directory=place, manifest=far.manifest, config=far.config, norm_stats={})


def test_facts_arrive_as_they_were(facts: PolicyFacts, far: PolicyFacts) -> None:
    assert far == facts
    assert far.as_data() == facts.as_data()
    assert facts.difference(far) == ""


def test_metadata_says_what_a_robot_must_know(facts: PolicyFacts, bundle: Bundle) -> None:
    data = msgpack.unpackb(pack(facts.as_data()))  # a client of openpi needs nothing of ours
    spec = ROBOT_SPECS["aloha-sim"]
    assert data["joint_names"] == list(spec.joint_names)
    assert data["units"] == list(spec.units)
    assert data["robot"] == "aloha-sim"
    assert data["cameras"] == ["cam_high"]
    assert data["control_hz"] == 50
    assert data["trained_delays"] == [0, 4, 8, 12, 16]
    assert (data["action_horizon"], data["action_dim"]) == (32, 14)
    content = (bundle.directory / "manifest.json").read_bytes()
    assert data["sha256"] == hashlib.sha256(content).hexdigest()


def test_metadata_of_openpi_has_no_key_that_its_examples_act_on(facts: PolicyFacts) -> None:
    assert "reset_pose" not in facts.as_data()  # of its real ALOHA


def test_a_robot_checks_a_remote_policy_as_a_local_one(remote: Bundle, bundle: Bundle) -> None:
    spec = ROBOT_SPECS["aloha-sim"]
    check_bundle_fits(remote.manifest, spec)
    with pytest.raises(BundleError, match="expected ur3"):
        check_bundle_fits(remote.manifest, ROBOT_SPECS["ur3"])
    assert spec_in_force(remote.config, spec) == spec_in_force(bundle.config, spec)
    assert carried_robot(remote.config) == carried_robot(bundle.config)
    assert trained_delays(remote) == trained_delays(bundle) == (0, 4, 8, 12, 16)
    assert tasks_of(remote) == tasks_of(bundle) != {}
    assert default_prompt(None, remote) == default_prompt(None, bundle)
    assert GripperClosing.of(remote.config, spec) == GripperClosing.of(bundle.config, spec)
    recorded, local = recorded_robot(remote), recorded_robot(bundle)
    for elsewhere in ("data_root_path", "frame_cache"):
        del local["training"][elsewhere]
    assert recorded == local
    assert datasets_of(remote.config, is_bundle=True) == datasets_of(bundle.config, is_bundle=True)
    of = DeploymentFacts.of
    assert repr(of(remote.manifest, remote.config)) == repr(of(bundle.manifest, bundle.config))
    chunks = [ChunkFacts.of_bundle(b, engine="e", can_continue=True) for b in (remote, bundle)]
    assert chunks[0] == chunks[1]


def test_the_changes_of_a_run_apply_to_a_remote_policy(remote: Bundle, bundle: Bundle) -> None:
    changes = Changes(execution_horizon=8)
    ours, local = agreed_bundle(remote, changes, None), agreed_bundle(bundle, changes, None)
    assert ours.manifest == local.manifest
    assert ours.config["inference"] == local.config["inference"]
    assert agreed_bundle(remote, Changes(), None) is remote


def test_of_the_training_only_how_its_data_were_read_leaves_the_server(
    facts: PolicyFacts, bundle: Bundle
) -> None:
    training: Any = bundle.config["train_dataloader"]
    path = training["dataset"]["datasets"]["data_root_path"]
    assert path.encode() not in pack(facts.as_data())
    assert set(facts.config) == {"inference", "model", "train_dataloader"}
    assert set(facts.config["model"]) <= {"rtc_training_config", "actions_per_token"}
    assert set(facts.config["train_dataloader"]) == {"dataset"}
    assert set(facts.config["train_dataloader"]["dataset"]) == {"datasets", "statistic_name"}


@pytest.mark.parametrize("kind", ["list", "groups"])
def test_several_datasets_are_read_as_in_the_bundle(bundle: Bundle, kind: str) -> None:
    config: Any = deepcopy(bundle.config)
    mixture = config["train_dataloader"]["dataset"]
    one = mixture["datasets"]
    mixture["datasets"] = [one, one] if kind == "list" else {"a": [one], "b": one}
    far = PolicyFacts.of(replace(bundle, config=config), "native", True)
    assert datasets_of(far.config, is_bundle=True) == datasets_of(config, is_bundle=True)


def test_an_older_bundle_that_only_names_its_robot_is_described_from_here(
    facts: PolicyFacts, bundle: Bundle
) -> None:
    source = {"aloha-sim": ComponentSource(distribution="flux-core", version="1")}
    manifest = replace(bundle.manifest, components=source)
    older = replace(bundle, manifest=manifest, config={"inference": {"robot": "aloha-sim"}})
    found = PolicyFacts.of(older, "native", False)
    assert found.spec == ROBOT_SPECS["aloha-sim"]
    assert PolicyFacts.from_data(found.as_data()) == found


def edited(facts: PolicyFacts, edit: Edit) -> object:
    data = deepcopy(facts.as_data())
    edit(data)
    return data


def put(*place: str | int, value: Any) -> Edit:
    """An edit that replaces one value."""

    def edit(data: Any) -> None:
        for key in place[:-1]:
            data = data[key]
        data[place[-1]] = value

    edit.__name__ = f"{'.'.join(map(str, place))}={value!r:.20}"
    return edit


def drop(key: str) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        del data[key]

    edit.__name__ = f"without {key}"
    return edit


BROKEN: list[Edit] = [
    *(
        drop(key)
        for key in ("server", "sha256", "engine", "can_continue", "robot", "joint_names", "units")
    ),
    *(drop(key) for key in ("cameras", "control_hz", "trained_delays", "manifest", "config")),
    put("more", value=1),
    put("server", value="flux"),
    put("server", "version", value=3),
    put("server", "version", value="x" * 101),
    put("sha256", value="0" * 63),
    put("sha256", value="G" * 64),
    put("sha256", value="0" * 64 + "\n"),
    put("sha256", value=None),
    put("engine", value=["native"]),
    put("engine", value="native\x1b[2J"),
    put("server", "version", value="1\n2"),
    put("manifest", "prompt", value="fold\x07"),
    put("manifest", "tasks", value={"1": "fold\x9b2J"}),
    put("manifest", "robots", value=["aloha-sim", "\x1b[31m"]),
    put("can_continue", value=1),
    put("robot", value="ur3"),
    put("joint_names", 0, value="left_wrist"),
    put("joint_names", value=[]),
    put("units", 0, value="degrees"),
    put("cameras", value=["cam_low"]),
    put("control_hz", value=100.0),
    put("control_hz", value=float("nan")),
    put("action_horizon", value=33),
    put("action_dim", value=7),
    put("trained_delays", value=[0, 5]),
    put("manifest", value=None),
    put("manifest", value=[]),
    put("manifest", "schema_version", value=99),
    put("manifest", "control_hz", value=float("inf")),
    put("manifest", "action_horizon", value=2**40),
    put("manifest", "state_dim", value=True),
    put("manifest", "cameras", value=[]),
    put("manifest", "graphs", value={}),
    put("manifest", "provenance", value={"x": b"bytes"}),
    put("manifest", "provenance", value={"x": np.zeros(3)}),
    put("manifest", "provenance", value={"x": [float("nan")]}),
    put("manifest", "files", value={"../../etc/passwd": {"sha256": "0" * 64, "bytes": 1}}),
    put("config", value="config.json"),
    put("config", "inference", "type", value="os:system"),
    put("config", "inference", "robot", "type", value="Popen"),
    put("config", "inference", "robot", "lower", value=["x"] * 14),
    put("config", "inference", "robot", "upper", value=[float("inf")] * 14),
    put("config", "inference", "dataset", "transforms", 0, "type", value="subprocess:run"),
    put("config", "inference", "robot", value="my-arm"),
    put("config", "train_dataloader", "dataset", "datasets", "transforms", 0, "type", value="x:y"),
    put("config", "model", "rtc_training_config", value={"type": "os:system"}),
]


@pytest.mark.parametrize("edit", BROKEN, ids=lambda edit: edit.__name__)
def test_a_server_that_says_something_else_is_refused(facts: PolicyFacts, edit: Edit) -> None:
    with pytest.raises(WireError) as caught:
        PolicyFacts.from_data(edited(facts, edit))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_prompt_may_be_in_any_language(facts: PolicyFacts) -> None:
    for prompt in ("把方块\u3000放进盒子", "تا\u200cکردن", "👩\u200d🔧\xa0☕"):
        said = replace(facts, manifest=replace(facts.manifest, prompt=prompt))
        data = unpack(pack(said.as_data()), METADATA_BOUNDS)
        assert PolicyFacts.from_data(data).manifest.prompt == prompt


@pytest.mark.parametrize("section", [{"max_delay": -3}, {"unknown": 1}, 3, "x"])
def test_delays_of_an_older_bundle_are_checked(facts: PolicyFacts, section: object) -> None:
    data = deepcopy(facts.as_data())
    data["manifest"]["rtc_valid_delays"] = [0]
    data["config"]["model"]["rtc_training_config"] = section
    with pytest.raises(WireError, match="rtc_training_config"):
        PolicyFacts.from_data(data)


@pytest.mark.parametrize("data", [None, [], "facts", 3, b"", np.zeros(3), {}, {"a": {1: 2}}])
def test_what_is_no_metadata_is_refused(data: object) -> None:
    with pytest.raises(WireError):
        PolicyFacts.from_data(data)


def test_no_package_is_imported_because_a_server_names_its_robot(
    facts: PolicyFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"looked for {name}")

    monkeypatch.setattr("flux_runtime.wire.facts.robot_spec", refuse)
    data = deepcopy(facts.as_data())
    data["config"]["inference"] = {}
    data["robot"] = data["manifest"]["robot"] = "my-arm"
    data["manifest"]["robots"] = ["my-arm"]
    with pytest.raises(WireError, match="description of 'my-arm'"):
        PolicyFacts.from_data(data)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sha256": "1" * 64}, "another bundle (sha256 "),
        ({"engine": "tensorrt"}, "another engine"),
        ({"can_continue": False}, "another can_continue"),
        ({"config": {}}, "another config"),
        ({"server_version": "2027.1.0"}, ""),
    ],
)
def test_another_policy_after_a_reconnect_is_noticed(
    facts: PolicyFacts, changes: dict[str, Any], text: str
) -> None:
    difference = facts.difference(replace(facts, **changes))
    assert difference.startswith(text)
    assert bool(difference) == bool(text)


def test_a_large_summary_fits_the_bounds(facts: PolicyFacts) -> None:
    picture = {
        "average": np.random.default_rng(0).random((24, 32, 3)).tolist(),
        "spread": np.random.default_rng(0).random((24, 32)).tolist(),
        "frames": 50.0,
        "likeness": 0.5,
    }
    cameras = {f"cam_{i}": {"start": picture, "mean": [1.0, 2.0, 3.0]} for i in range(16)}
    summary = {**facts.manifest.data_summary, "cameras": cameras}
    large = replace(facts, manifest=replace(facts.manifest, data_summary=summary))
    frame = pack(large.as_data())
    assert len(frame) > 400_000
    found = PolicyFacts.from_data(unpack(frame, METADATA_BOUNDS))
    assert DeploymentFacts.of(found.manifest).cameras["cam_15"].start is not None


def test_a_bundle_whose_manifest_is_gone_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read"):
        PolicyFacts.of(replace(bundle, directory=tmp_path), "native", True)
