"""What a plan costs on a named card, without a card, Triton or torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flux_runtime.cli import main
from flux_runtime.cuda.cards import CARDS
from flux_runtime.cuda.cost import Cost, expected_us, launch_cost, stage_costs, total
from flux_runtime.cuda.cubins import find_cubins, specialise
from flux_runtime.cuda.cubins.command import describe_for_plans
from flux_runtime.cuda.cubins.shipped import full_size
from flux_runtime.cuda.pi import make_plan
from flux_runtime.cuda.plan import Launch, LaunchPlan
from flux_runtime.cuda.support import MODELS, Model

from ..conftest import one_json_object

if TYPE_CHECKING:
    from ..conftest import Exported

H200 = CARDS["h200"]


@cache
def full_plan(
    model: Model = "pi0", card: str = "h200", cameras: int = 3, tokens: int = 48
) -> LaunchPlan:
    return make_plan(full_size(model), cameras, tokens, arch=CARDS[card].arch)


def test_the_operations_of_pi0_are_those_of_its_layers() -> None:
    """Counted by hand from the widths, for 3 cameras, 48 tokens, 50 steps and 10 Euler steps."""
    stages = stage_costs(full_plan(), H200)
    assert list(stages) == ["start", "vision", "prefix", "steps"]
    image, prefix, suffix = 768, 816, 51
    attention = 4 * image * 256 * 1152
    block = 2 * image * (4 * 1152 * 1152 + 2 * 1152 * 4304) + attention
    patches, projector = 2 * image * 592 * 1152, 2 * image * 1152 * 2048
    assert stages["vision"].operations == 27 * block + patches + projector
    keys = 2 * prefix * 2048 * 2 * 256
    rest = 2 * prefix * 2048 * (2 * 2048 + 3 * 16384) + 4 * prefix * prefix * 2048
    assert stages["prefix"].operations == 18 * keys + 17 * rest

    def step(rows: int) -> int:
        layer = 2 * rows * 1024 * (2560 + 2048 + 3 * 4096) + 4 * rows * (prefix + suffix) * 2048
        return 18 * layer

    small = 2 * 32 * 1024 + 10 * 2 * 50 * (2 * 32 * 1024 + 1024 * 1024)
    assert stages["steps"].operations == step(51) + 9 * step(50) + small


def test_every_weight_is_read_once_per_use() -> None:
    """The bytes of the steps are ten times the expert's weights, and little else."""
    stages = stage_costs(full_plan(), H200)
    layer = 1024 * (2560 + 2048 + 3 * 4096)
    weights = 10 * 18 * layer * 2
    assert weights < stages["steps"].num_bytes < 1.35 * weights


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_never_expected_to_beat_its_limits(model: Model, card: str) -> None:
    one = CARDS[card]
    plan = full_plan(model, card)
    stages = stage_costs(plan, one)
    for stage in stages.values():
        arithmetic, memory = stage.operations / one.flops_per_s, stage.num_bytes / one.bytes_per_s
        least = max(arithmetic, memory) + stage.launches * one.launch_us / 1e6
        assert stage.expected_ms >= least * 1e3 * 0.999
    assert total(stages).launches == len(plan.launches)


def test_the_estimate_is_near_the_one_of_the_design() -> None:
    """16 to 20 ms before tuning, 12 to 13.5 ms at best, for an H200; 37 to 43 for a 4090."""
    assert 11 < total(stage_costs(full_plan(), H200)).expected_ms < 20
    assert 30 < total(stage_costs(full_plan(card="4090"), CARDS["4090"])).expected_ms < 50


def test_fewer_cameras_and_tokens_cost_less() -> None:
    times = [
        total(stage_costs(full_plan(cameras=cameras, tokens=tokens), H200)).expected_ms
        for cameras, tokens in ((1, 16), (2, 16), (3, 16), (3, 200))
    ]
    assert times == sorted(times)
    assert times[0] < 0.7 * times[-1]


def test_a_launch_takes_as_long_as_its_waves_or_its_bytes() -> None:
    card = replace(H200, processors=10, flops_per_s=1e12, share=1.0, bytes_per_s=1e9, launch_us=1.0)
    launch = Launch(stage="", kernel="", arguments=(), constants={}, grid=(5, 3, 1))
    tile = 128 * 128
    arithmetic = Cost(program_operations=10**6, accumulators=tile)
    assert expected_us(launch, arithmetic, card) == pytest.approx(1 + 2 * 10)  # two waves
    memory = Cost(program_operations=10**6, accumulators=tile, num_bytes=10**6)
    assert expected_us(launch, memory, card) == pytest.approx(1 + 1000)


def test_operations_are_those_that_the_plans_own_check_counts() -> None:
    from flux_runtime.cuda.pi import work_of

    plan = full_plan("pi05", cameras=2)
    for launch in plan.launches:
        found = launch_cost(plan, launch)
        assert found.operations == work_of(launch).operations


def test_the_command_needs_neither_torch_nor_triton_nor_a_card() -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None\n"
        "from flux_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["bench", "--plan", "--model", "pi05", "--card", "h200", "orin", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = one_json_object(done.stdout)
    assert report["is_estimate"] is True
    assert list(report["cards"]) == ["h200", "orin"]
    for card in report["cards"].values():
        assert [one["num_tokens"] for one in card["variants"]] == [16, 32, 48, 200]
        assert 6e9 < card["constant_bytes"] < 7e9
        for variant in card["variants"]:
            stages: list[dict[str, Any]] = [*variant["stages"].values()]
            for key in ("launches", "operations", "num_bytes"):
                assert sum(stage[key] for stage in stages) == variant["total"][key]


def test_the_table_names_stages_and_says_that_it_is_an_estimate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "--plan", "--model", "pi0", "--card", "4090"]) == 0
    printed = capsys.readouterr().out
    for text in ("RTX 4090", "estimate", "vision", "prefix", "steps", "total", "not measured"):
        assert text in printed


def test_what_the_engine_does_not_run_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "--plan", "--model", "gr00t"]) == 2
    error = capsys.readouterr().err
    assert "expected --model pi0 or pi05 or a bundle, got gr00t" in error
    assert error.count("\n") == 1


def test_a_report_can_be_written_to_a_file(tmp_path: Any, capsys: Any) -> None:
    out = tmp_path / "plan.json"
    assert main(["bench", "--plan", "--model", "pi0", "--out", str(out), "--json"]) == 0
    assert json.loads(out.read_text()) == json.loads(capsys.readouterr().out)


def test_a_bundle_that_the_engine_does_not_run_is_refused(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["bench", "--plan"], ["build", "--arch", "sm_89", "--bundle"]):
        assert main([*command, str(toy_bundle)]) == 2
        error = capsys.readouterr().err
        assert "engine cuda: it runs bundles in bf16" in error
        assert error.count("\n") == 1


@pytest.mark.slow
def test_a_bundle_of_other_sizes_is_planned_and_gets_its_kernels(
    exported: Exported,
    shipped_kernels: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    shutil.copytree(shipped_kernels("sm_90a"), tmp_path, dirs_exist_ok=True)
    bundle, _ = exported("pi05", precision="bf16")
    directory = str(bundle.directory)
    assert main(["bench", "--plan", directory, "--json"]) == 0
    report = one_json_object(capsys.readouterr().out)
    assert report["num_cameras"] == len(bundle.manifest.cameras)

    assert main(["build", "--arch", "sm_90a", "--bundle", directory, "--out", str(tmp_path)]) == 0
    cubins = find_cubins("sm_90a", [tmp_path])
    network = describe_for_plans(bundle.directory)
    plan = make_plan(network.description, network.num_cameras, 16, arch="sm_90a")
    for launch in plan.launches:
        assert cubins.cubin(specialise(plan, launch)).path.is_file()
