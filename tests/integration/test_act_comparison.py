"""The comparison with LeRobot's ACT: what is kept of it, its table, and the figure of success."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..documents import ROOT, load_script

ACT = ROOT / "benchmarks" / "act"
KEPT = ROOT / "benchmarks" / "results" / "act"
MACHINE_PATH = re.compile(r"/(?:root|home|work|tmp|Users)/")


@pytest.fixture(scope="module")
def comparison() -> ModuleType:
    load_script(ROOT / "benchmarks" / "kept_episodes.py")
    return load_script(ROOT / "benchmarks" / "compare_act.py")


@pytest.fixture(scope="module")
def figure(comparison: ModuleType) -> ModuleType:
    return load_script(ROOT / "benchmarks" / "success_figure.py")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script(ACT / "runs.py")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return module


def keep(runs: ModuleType, side: str, *, steps: int, cpu_s: float, won: int) -> Any:
    """Keeps a checkpoint that has won `won` of 200 episodes; returns its run."""
    run = runs.Run(f"{side}_peg")
    runs.KEPT.mkdir(parents=True, exist_ok=True)
    run.log.write_text("step 1\n")
    known = json.loads(run.training.read_text()) if run.training.exists() else {"checkpoints": {}}
    known["checkpoints"][f"checkpoint_step_{steps}.safetensors"] = {"cpu_s": cpu_s}
    run.training.write_text(json.dumps(known))
    policy = runs.Policy(
        parameters=1_388_216,
        picture=(96, 128),
        cameras=1,
        chunk=32,
        executed=16,
        sha256="0123456789abcdef" * 4,
    )
    weights = run.folder / f"checkpoint_step_{steps}.safetensors"
    training = {"steps": steps, "cpu_s": run.cpu_s(weights), "seed": 1, "learning_rate": 1e-4}
    episodes = [runs.Episode(100_000 + i, i < won, i < won - 1) for i in range(200)]
    run.keep(side, "insertion", policy, training, episodes, 1.0, {"torch": "2.13.0"})
    return run


def test_the_table_has_a_row_per_checkpoint_with_its_interval(
    runs: ModuleType, comparison: ModuleType, tmp_path: Path
) -> None:
    keep(runs, "flux", steps=9000, cpu_s=810.0, won=191)
    keep(runs, "flux", steps=900, cpu_s=84.0, won=20)
    keep(runs, "act", steps=550, cpu_s=780.0, won=0)
    found = comparison.read(tmp_path / runs.KEPT)
    header, *rows = comparison.table_rows(found)
    assert [row[3] for row in rows] == ["550; 13.0 min", "900; 1.4 min", "9,000; 13.5 min"]
    # scipy.stats.binomtest(191, 200).proportion_ci(method="wilson"), and of 0.
    assert [row[4] for row in rows[::2]] == [
        "0 of 200 (0.0 to 1.9 %)",
        "191 of 200 (91.7 to 97.6 %)",
    ]
    assert rows[2][1:3] == [
        "flux, small π0.5, learning rate 0.0001, 16 of 32 steps executed",
        "1.4 M; 1 of 96x128",
    ]
    assert rows[2][5:] == ["190", "0123456789ab"]
    assert len(header) == 7


def test_a_checkpoint_that_its_training_does_not_know_is_refused(
    runs: ModuleType, comparison: ModuleType, tmp_path: Path
) -> None:
    run = keep(runs, "flux", steps=900, cpu_s=84.0, won=20)
    with pytest.raises(SystemExit, match=r"expected checkpoint_step_1\.safetensors, found"):
        run.cpu_s(run.folder / "checkpoint_step_1.safetensors")
    result = json.loads(run.result(900).read_text())
    result["training"]["cpu_s"] = 85.0
    run.result(900).write_text(json.dumps(result))
    with pytest.raises(SystemExit, match=r"flux_peg\.training\.json: expected a checkpoint at 85"):
        comparison.read(tmp_path / runs.KEPT)


def test_numbers_md_has_the_table_of_what_is_kept(
    comparison: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    found = comparison.read()
    comparison.print_rows(comparison.table_rows(found), is_markdown=True, width=0)
    table = capsys.readouterr().out if found else ""
    assert table in (ROOT / "docs" / "numbers.md").read_text(), "run benchmarks/compare_act.py"


def test_what_is_kept_names_no_machine() -> None:
    files = [path for path in KEPT.glob("*") if path.is_file()]
    assert not [path.name for path in files if MACHINE_PATH.search(path.read_text())]


TRAINING = """
import subprocess, sys, time
from pathlib import Path
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
folder = Path("work_dirs/act/x")
print("Training:  50%|##   | 1/2 [00:01<00:01, 1.00step/s]step:1 loss:2", file=sys.stderr)
if len(sys.argv) == 1:
    burn(0.2)
    subprocess.run([sys.executable, __file__, "child"], check=True)
    folder.mkdir(parents=True)
    (folder / "checkpoint_step_1.safetensors").write_bytes(b"")
    time.sleep(0.5)
    burn(0.3)
else:
    burn(0.3)
"""


def test_cpu_time_is_that_of_all_processes_until_the_checkpoint(
    runs: ModuleType, tmp_path: Path
) -> None:
    timed = load_script(ACT / "timed.py")
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    assert timed.timed(runs.Run("x"), [sys.executable, str(script)]) == 0
    kept = json.loads(runs.Run("x").training.read_text())
    first = kept["checkpoints"]["checkpoint_step_1.safetensors"]["cpu_s"]
    assert 0.5 <= first < kept["cpu_s"]
    assert 0.8 <= kept["cpu_s"] <= 1.6
    assert runs.Run("x").log.read_text() == "step:1 loss:2\n" * 2
    with pytest.raises(SystemExit, match="exists"):
        timed.timed(runs.Run("x"), ["true"])


def row(**changes: Any) -> dict[str, Any]:
    usual = dict(suite="aloha-insertion", mode="sync", delay=0, horizon=None, precision="fp32")
    found = dict(engine="onnxruntime", disturbance="none", episodes=200)
    success = dict(success={"episodes": 190, "ci95": [0.91, 0.97]})
    return usual | found | success | changes


def test_the_figure_has_the_measured_rows_and_the_refused_ones(
    figure: ModuleType, runs: ModuleType, comparison: ModuleType, tmp_path: Path
) -> None:
    int8 = row(precision="int8", refused="flux-export: error: far")
    del int8["success"]
    missing = row(mode="rtc", delay=8, episodes=0)
    del missing["success"]
    rows = [row(), row(horizon=8), row(horizon=16), int8, missing, row(disturbance="blur")]
    points = figure.points_of({figure.name_of(Path("success_both_2cores.json")): {"rows": rows}})
    assert [(point.group, point.label, point.rate) for point in points] == [
        (figure.PRECISIONS, "fp32 on onnxruntime", 95.0),
        (figure.DISTURBANCES, "none", 95.0),
        (figure.HORIZONS, "8", 95.0),
        (figure.HORIZONS, "16", 95.0),
        (figure.PRECISIONS, "int8 on onnxruntime", None),
        (figure.DISTURBANCES, "blur", 95.0),
    ]
    assert {point.series for point in points} == {"insertion, policy “both”"}
    assert [point.refused_by for point in points if point.rate is None] == ["flux-export"]
    for side in ("act", "flux"):
        keep(runs, side, steps=900, cpu_s=84.0, won=20)
        keep(runs, side, steps=9000, cpu_s=840.0, won=180)
    for name, curves in (("with.png", comparison.read(tmp_path / runs.KEPT)), ("without.png", [])):
        figure.draw(points, curves, tmp_path / name)
        picture = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert picture.shape[1] == (1050 if curves else 650)
        assert (picture[0, 0] == 255).all() and picture.std() > 5


LEROBOT = """
import sys
from types import SimpleNamespace
import numpy as np
import torch
sys.path.insert(0, "benchmarks/act")
import evaluate
commands = [np.load(path)["command"] for path in sys.argv[1:]]
class Replay(torch.nn.Module):
    def reset(self):
        self.step = 0
    def select_action(self, observation):
        assert observation["observation.images.cam_high"].shape == (len(commands), 3, 96, 128)
        rows = [command[min(self.step, len(command) - 1)] for command in commands]
        self.step += 1
        return torch.from_numpy(np.stack(rows)).float()
nothing = evaluate.PolicyProcessorPipeline(steps=[])
after = evaluate.PolicyProcessorPipeline(
    steps=[], to_transition=lambda a: {"action": a}, to_output=lambda t: t["action"]
)
evaluate.make_pre_post_processors = lambda config, path: (nothing, after)
camera = {"observation.images.cam_high": SimpleNamespace(shape=(3, 96, 128))}
config = SimpleNamespace(image_features=camera, n_action_steps=32)
seeds = range(10_000, 10_000 + len(commands))
for episode in evaluate.play(None, Replay(), config, "transfer-cube", seeds):
    print(episode.seed, episode.success, episode.held)
"""


@pytest.mark.slow
def test_our_commands_do_in_lerobots_rollout_what_they_did_in_our_loop(tmp_path: Path) -> None:
    python = ROOT / ".venv-act" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is missing: bash benchmarks/act/environment.sh")
    run = [str(Path(sys.executable).parent / "flux-runtime"), "run", "--robot", "aloha-sim"]
    subprocess.run([*run, "--episodes", "2", "--record", str(tmp_path)], check=True, cwd=ROOT)
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    ours = [json.loads(line) for line in lines]
    files = [str(tmp_path / episode["file"]) for episode in ours]
    words = [str(python), "-c", LEROBOT, *files]
    done = subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    found = [line.split() for line in done.stdout.splitlines()]
    assert [line[1:] for line in found] == [
        [str(episode["success"]), str(episode["strict_success"])] for episode in ours
    ]
