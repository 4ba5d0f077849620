"""Which mode a run has, why, and which delays its chunks may have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flux_core.errors import UsageError
from flux_core.rtc import RTCConfig
from flux_runtime.chunking import ChunkFacts, Chunking, resolve_chunking
from flux_runtime.cli import main

TRAINED = (0, 4, 8, 12, 16)


def facts(**changes: Any) -> ChunkFacts:
    fields: dict[str, Any] = {
        "rtc": RTCConfig(),
        "trained_delays": TRAINED,
        "execution_horizon": 16,
        "action_horizon": 32,
        "engine": "onnxruntime",
        "can_continue": True,
    }
    return ChunkFacts(**(fields | changes))


def chosen(
    policy: ChunkFacts | None, mode: Any = None, *, option: bool = False, is_real: bool = True
) -> tuple[str, str]:
    chunking = resolve_chunking(mode, policy, has_rtc_option=option, is_real=is_real)
    assert (chunking.rtc is None) == (chunking.mode != "rtc")
    return chunking.mode, chunking.reason


def test_a_real_robot_continues_chunks_where_its_policy_was_trained_for_it() -> None:
    assert chosen(facts()) == ("rtc", "the policy was trained for it")
    assert chosen(facts(engine="cuda")) == ("rtc", "the policy was trained for it")
    guided = RTCConfig(method="guidance")
    untrained = facts(rtc=guided, trained_delays=(0,))
    assert chosen(untrained) == ("rtc", "the bundle's rtc_config guides chunks")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trained_delays": (0,)}, "the policy was not trained for real-time chunking (its only"),
        ({"rtc": RTCConfig(enabled=False)}, "rtc_config.enabled is false"),
        ({"rtc": RTCConfig(use_vjp=True)}, "rtc_config.use_vjp needs the network's Jacobian"),
        ({"can_continue": False, "engine": "tensorrt"}, "engine tensorrt captures the whole"),
        (
            {"rtc": RTCConfig(method="guidance"), "engine": "cuda"},
            "engine cuda captures the whole inference, and method guidance needs the velocity",
        ),
        ({"execution_horizon": 30}, "no delay fits execution horizon 30 of 32 steps"),
    ],
)
def test_any_other_real_robot_holds_while_it_infers(changes: Any, reason: str) -> None:
    mode, why = chosen(facts(**changes))
    assert mode == "sync" and why.startswith(reason)
    assert chosen(None) == ("sync", "no policy")


def test_a_simulated_robot_holds_unless_the_options_say_otherwise() -> None:
    assert chosen(facts(), is_real=False) == ("sync", "the default of a simulated robot")
    for mode in ("sync", "async", "ensemble", "rtc"):
        expected = (mode, "--mode rtc" if mode == "rtc" else "--mode")
        assert chosen(facts(), mode, is_real=False) == chosen(facts(), mode) == expected


def test_changing_the_rtc_config_chooses_rtc(caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(facts(), option=True, is_real=False) == ("rtc", "--rtc")
    off = facts(rtc=RTCConfig(enabled=False))
    assert chosen(off, option=True, is_real=False)[0] == "sync"
    assert not caplog.records
    assert chosen(facts(), "async", option=True)[0] == "async"
    assert [record.message for record in caplog.records] == [
        "--rtc: has no effect with --mode async"
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"trained_delays": (0,)},
            "the policy was not trained for real-time chunking (its only delay is 0). Add --rtc "
            "method=guidance, which needs no training, or use --mode sync, async or ensemble",
        ),
        ({"rtc": RTCConfig(enabled=False)}, "Add --rtc enabled=true, or use"),
        ({"rtc": RTCConfig(use_vjp=True)}, "Add --rtc use_vjp=false, or use"),
        ({"can_continue": False, "engine": "tensorrt"}, "Use another --engine, or use"),
        (
            {"rtc": RTCConfig(method="guidance"), "engine": "cuda"},
            "every step. Add --rtc method=prefix, or use another --engine, or use",
        ),
        (
            {"trained_delays": (0,), "engine": "cuda"},
            "Add --rtc method=guidance, which needs no training, and another --engine, or use",
        ),
        (
            {"rtc": RTCConfig(method="guidance"), "trained_delays": (0,), "engine": "cuda"},
            "every step. Use another --engine, or use",
        ),
    ],
)
def test_rtc_that_cannot_be_is_refused_with_the_remedy(changes: Any, words: str) -> None:
    with pytest.raises(UsageError, match="--mode rtc: expected a policy whose chunks") as error:
        chosen(facts(**changes), "rtc")
    assert words in str(error.value)
    with pytest.raises(UsageError, match="got --policy hold"):
        chosen(None, "rtc")


def test_a_delay_that_does_not_fit_is_refused_with_the_numbers() -> None:
    chunking = Chunking(mode="rtc", reason="", rtc=RTCConfig(), trained_delays=(0, 4, 8))
    horizons: Any = {"execution_horizon": 16, "action_horizon": 32, "what": "--inference-delay"}
    assert chunking.require_delay(5, **horizons) == 8
    with pytest.raises(UsageError) as error:
        chunking.require_delay(9, **horizons)
    assert str(error.value) == (
        "--inference-delay: expected a delay d of at least 9 steps with d <= execution horizon 16 "
        "<= action horizon 32 - d, got none (trained: 0, 4, 8). Use a faster engine, another "
        "--execution-horizon, a lower --speed, --rtc method=guidance or --mode sync, async or "
        "ensemble"
    )
    with pytest.raises(UsageError, match="a lower --speed or --mode sync"):
        chunking.require_delay(17, **horizons)  # no method can
    fixed = replace(chunking, rtc=RTCConfig(prefix_len=4))
    with pytest.raises(UsageError, match=r"prefix_len is 4\).*, --rtc prefix_len=null or --mode"):
        fixed.require_delay(5, **horizons)


# --- on a toy robot -----------------------------------------------------------------------------


def run(*arguments: str) -> int:
    return main(["run", "--robot", "toy", "--episodes", "1", "--max-steps", "12", *arguments])


@pytest.fixture
def trained_bundle(fakes: Any, tmp_path: Path) -> str:
    return str(fakes.write_toy_bundle(tmp_path / "trained", rtc_valid_delays=(0, 2)))


@pytest.mark.parametrize(
    ("mode", "chunks", "held"), [("sync", 2, 4), ("async", 3, 2), ("ensemble", 5, 2), ("rtc", 3, 2)]
)
def test_every_mode_drives_a_robot_and_is_reported(
    toy: Any,
    trained_bundle: str,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    chunks: int,
    held: int,
) -> None:
    toy.at["transferred"] = 999
    arguments = ("--bundle", trained_bundle, "--mode", mode, "--inference-delay", "2", "--json")
    assert run(*arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["mode"], report["mode_reason"]) == (
        mode,
        "--mode rtc" if mode == "rtc" else "--mode",
    )
    assert (report["chunks"], report["held_ticks"]) == (chunks, held)
    assert report["inference_delay"] == 2
    if mode != "rtc":
        assert report["rtc"] is None
        return
    assert report["rtc"]["method"] == "prefix" and report["rtc"]["trained_delays"] == [0, 2]
    assert report["rtc"]["delays"] == {"0": 1, "2": 2} and report["rtc"]["late"] == 0


def test_without_a_mode_the_robot_does_not_wait(
    toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--bundle", str(toy_bundle), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["mode"], report["held_ticks"]) == ("sync", 0)
    assert report["mode_reason"] == "the default of a simulated robot"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--mode", "rtc"),
            "--inference-delay 5: expected a delay d of at least 5 steps with d",
        ),
        (("--mode", "async"), "--mode async: inference_delay: expected 0 to 2 (the smaller of"),
        (("--mode", "ensemble"), "--mode ensemble: inference_delay: expected 0 to 3 (half of"),
    ],
)
def test_a_delay_that_the_mode_cannot_have_is_refused_before_anything_moves(
    toy: Any,
    trained_bundle: str,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    assert run("--bundle", trained_bundle, *arguments) == 2
    assert words in capsys.readouterr().err
    assert toy.commands == []


def test_rtc_of_a_policy_that_was_not_trained_for_it_is_refused(
    toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--bundle", str(toy_bundle), "--mode", "rtc") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "(its only delay is 0). Add --rtc method=guidance" in error
    assert toy.commands == []
