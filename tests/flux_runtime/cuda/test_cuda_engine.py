"""The engine `cuda`: when it is chosen, what it refuses, and what it says of this machine."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flux_core.errors import BundleError, MissingDependencyError
from flux_runtime.cli import main
from flux_runtime.cuda.architectures import ARCHITECTURES
from flux_runtime.engines import nvidia
from flux_runtime.engines import status as engine_status
from flux_runtime.engines.opening import choose_engine, engine_tolerance, open_flow_policy
from flux_runtime.engines.status import cubins_of_card, engine_version

from .fake_card import FakeCard

MODEL = {"vision_backbone": {"type": "SigLIPViTBackbone"}}


def bundle_of(model: str = "pi05", precision: str = "bf16", **changes: Any) -> Any:
    """As much of a bundle as decides whether the engine runs it."""
    manifest = SimpleNamespace(model=model, precision=precision, tolerance=0.01)
    return SimpleNamespace(manifest=manifest, config={"model": MODEL | changes}, directory="here")


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer with a card, without kernels for it and without ONNX Runtime's providers."""
    monkeypatch.setattr(nvidia, "has_card", lambda: True)
    monkeypatch.setattr(nvidia, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(
        nvidia, "read_card", lambda: nvidia.Card(name="NVIDIA H200", driver="580.65.06")
    )


@pytest.fixture
def kernels(h200: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The architectures that kernels are there for."""
    built = ["sm_90a"]

    def find(arch: str) -> Any:
        if arch not in built:
            raise MissingDependencyError(f"{arch}: not compiled. Run: flux-runtime build")
        store = SimpleNamespace(
            folder=Path("/kernels") / arch, kernels_sha256="0123456789abcdef", triton="3.9.0"
        )
        return SimpleNamespace(architecture=ARCHITECTURES[arch], stores=(store,))

    monkeypatch.setattr("flux_runtime.cuda.cubins.find_cubins", find)
    return built


def test_a_computer_without_a_card_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "has_card", lambda: False)
    status = engine_status.engine_status("cuda")
    assert (status.ok, status.found) == (False, "no NVIDIA card with a driver")
    with pytest.raises(MissingDependencyError, match="engine cuda: no NVIDIA card"):
        choose_engine("cuda", "bf16", bundle_of())


def test_a_card_without_kernels_names_the_command_that_builds_them(h200: None) -> None:
    status = engine_status.engine_status("cuda")
    assert not status.ok
    assert "flux-runtime build --arch sm_90a" in status.fix
    with pytest.raises(MissingDependencyError, match="engine cuda: sm_90a: .*flux-runtime build"):
        choose_engine("cuda", "bf16", bundle_of())


def test_a_card_that_no_kernels_can_be_built_for_is_named(
    h200: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "compute_capability", lambda: (7, 5))
    status = engine_status.engine_status("cuda")
    assert status.found == "no kernels for cards of compute capability 7.5"
    assert status.fix == "Use another engine."


def test_the_best_kernels_that_the_card_runs_are_taken(
    kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "compute_capability", lambda: (8, 9))
    kernels[:] = ["sm_86"]
    assert cubins_of_card().architecture.name == "sm_86"
    kernels.append("sm_89")
    assert cubins_of_card().architecture.name == "sm_89"
    kernels.clear()
    with pytest.raises(MissingDependencyError, match="sm_89: not compiled"):
        cubins_of_card()


def test_auto_chooses_it_for_a_bundle_that_it_runs(kernels: list[str]) -> None:
    choice = choose_engine("auto", "bf16", bundle_of())
    assert (choice.name, choice.reason) == ("cuda", "auto: kernels for sm_90a in /kernels/sm_90a")
    assert choose_engine("cuda", "bf16", bundle_of()).reason == "asked for"
    assert engine_tolerance(bundle_of().manifest, "cuda") == 0.01
    assert engine_version("cuda") == (
        "kernels 0123456789ab for sm_90a by triton 3.9.0, NVIDIA H200 with driver 580.65.06"
    )


@pytest.mark.parametrize(
    ("bundle", "why"),
    [
        (bundle_of("gr00t"), "it runs pi0 and pi05, not gr00t"),
        (bundle_of(vision_backbone={"type": "ConvBackbone"}), "not ConvBackbone"),
        (
            bundle_of(vision_backbone={"type": "TransformersVisionBackbone"}),
            "not TransformersVisionBackbone",
        ),
        (bundle_of(precision="fp32"), "it runs bundles in bf16"),
        (bundle_of(action_smoothing=0.2), "action_smoothing"),
    ],
)
def test_another_bundle_is_refused_by_name_and_auto_moves_on(
    kernels: list[str], bundle: Any, why: str
) -> None:
    with pytest.raises(BundleError, match=r"^engine cuda: .*\. Use another engine\.$") as error:
        choose_engine("cuda", bundle.manifest.precision, bundle)
    assert why in str(error.value)
    choice = choose_engine("auto", "fp32", bundle)
    assert choice.name != "cuda"
    assert "; not cuda: " in choice.reason and why in choice.reason


@pytest.mark.parametrize(
    ("rtc", "is_chosen"),
    [
        ({"method": "guidance"}, False),
        ({"method": "guidance", "enabled": False}, True),
        ({"method": "prefix"}, True),
        ({}, True),
        (None, True),
    ],
)
def test_auto_moves_on_where_chunks_are_guided(
    kernels: list[str], rtc: dict[str, Any] | None, is_chosen: bool
) -> None:
    """A run without real-time chunking may still ask for `cuda` by name."""
    bundle = bundle_of()
    bundle.config["inference"] = {"rtc_config": rtc}
    assert choose_engine("cuda", "bf16", bundle).name == "cuda"
    choice = choose_engine("auto", "fp32", bundle)
    assert (choice.name == "cuda") == is_chosen
    why = "; not cuda: it runs real-time chunking with method prefix, not guidance"
    assert choice.reason.endswith(why) == (not is_chosen)


def test_auto_moves_on_where_kernels_are_missing(h200: None) -> None:
    choice = choose_engine("auto", "fp32", bundle_of())
    assert choice.name != "cuda"
    assert "; not cuda: sm_90a: the kernels of this version are not compiled" in choice.reason


def test_without_a_card_auto_does_not_mention_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "has_card", lambda: False)
    assert choose_engine("auto", "fp32", bundle_of()).reason == "auto: no NVIDIA card with a driver"


def test_a_bundle_of_another_network_is_a_one_line_error_of_every_command(
    kernels: list[str], core: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(toy_bundle), "--engine", "cuda"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "engine cuda: it runs bundles in bf16 (flux-export --precision bf16), not fp32" in err


@pytest.mark.parametrize("error", ["EngineUnavailable", "RuntimeError", "ValueError"])
def test_what_the_card_refuses_is_a_one_line_error(
    kernels: list[str], core: Any, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    kinds = {"EngineUnavailable": core.EngineUnavailable, "ValueError": ValueError}

    def refuse(*_: Any) -> None:
        raise kinds.get(error, RuntimeError)("memory of X:\nexpected 24 MiB free, got 10")

    monkeypatch.setattr("flux_runtime.cuda.player.open_cuda_policy", refuse)
    with pytest.raises(MissingDependencyError) as caught:
        open_flow_policy(bundle_of(), engine="cuda")
    assert str(caught.value) == (
        "engine cuda: cannot be used on this machine (memory of X: expected 24 MiB free, got 10). "
        "See 'flux-runtime doctor', or use another engine."
    )


def test_the_driver_is_asked_for_the_compute_capability(card: FakeCard) -> None:
    card.reset((12, 0))
    assert nvidia.compute_capability(lambda _: ctypes.CDLL(card.library)) == (12, 0)
    assert nvidia.read_card(lambda _: ctypes.CDLL(card.library)).name == "Fake card"
    assert nvidia.has_card(lambda _: ctypes.CDLL(card.library))
