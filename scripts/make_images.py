"""Makes the images of README.md and docs: the cube transfer, the run report, the dataset page, how
chunks join, and how often policies succeed.

    python scripts/make_images.py
    python scripts/make_images.py --only chunk_borders.png

Needs the environment of `make install` and, for the pages, a Chromium (`apt-get install chromium`).
Drives the simulated robot with the shipped policy, records a few scripted demonstrations, takes
screenshots of the pages that flux makes of both, and writes docs/images/. Takes about two minutes
on two CPU cores. Success is drawn from benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAX_TOTAL_BYTES = 2_000_000

CAMERA = "angle"  # from the front; the policy itself sees only cam_high, which looks down
HEIGHT, WIDTH = 300, 450
STEPS_PER_FRAME, CONTROL_STEP_MS = 3, 20
LAST_FRAME_MS = 1500
NUM_COLORS = 96

PAGE_WIDTH = 1200
REPORT_HEIGHT, DATASET_HEIGHT = 1420, 1180
NUM_EPISODES = 5

FILM, REPORT, DATASET = "transfer_cube.gif", "run_report.png", "dataset_page.png"
BORDERS, SUCCESS = "chunk_borders.png", "success.png"
PAGES = (FILM, REPORT, DATASET)
ALL = (*PAGES, BORDERS, SUCCESS)

MODES = ("sync", "async", "ensemble", "rtc")
DELAY_STEPS, BORDERS_SEED, SHOWN_S = 12, 10_000, 3.5


def main() -> int:
    """Makes all images; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL)
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not set(PAGES).isdisjoint(options.only):
            _make_images_of_pages(folder, out, options.only)
        if BORDERS in options.only:
            _plot_borders(_drive_modes(folder), out / BORDERS)
    if SUCCESS in options.only:
        script = ROOT / "benchmarks" / "success_figure.py"
        subprocess.run([sys.executable, script, "--out", out / SUCCESS], check=True)
    return _report(out)


def _make_images_of_pages(folder: Path, out: Path, names: Sequence[str]) -> None:
    browser = _find_browser()
    _make_pages(folder)
    if FILM in names:
        _write_film(list(_film(folder / "recording")), out / FILM)
    if REPORT in names:
        _photograph(browser, folder / "report.html", REPORT_HEIGHT, out / REPORT)
    if DATASET in names:
        _photograph(browser, folder / "dataset.html", DATASET_HEIGHT, out / DATASET)


def _find_browser() -> str:
    for name in BROWSERS:
        path = shutil.which(name)
        if path is not None:
            return path
    raise SystemExit(
        f"make_images: error: expected one of {', '.join(BROWSERS)} on the PATH, got none. "
        f"Install one: apt-get install chromium"
    )


def _make_pages(folder: Path) -> None:
    """Runs the commands that write report.html and dataset.html to `folder`."""
    demonstrations, recording = folder / "demonstrations", folder / "recording"
    episodes = str(NUM_EPISODES)
    _flux("flux-data", "demo", "aloha-sim", "--episodes", episodes, "--out", demonstrations)
    _flux("flux-data", "view", demonstrations, "--out", folder / "dataset.html")
    run = ("flux-runtime", "run", "--robot", "aloha-sim", "--episodes", episodes)
    _flux(*run, "--record", recording, "--report", folder / "report.html")


def _flux(command: str, *arguments: str | Path) -> None:
    words = [str(Path(sys.executable).parent / command), *map(str, arguments)]
    subprocess.run(words, cwd=ROOT, check=True)


def _film(recording: Path) -> Iterator[NDArray[np.uint8]]:
    """Replays the first recorded episode in simulation; yields (height, width, 3) uint8 RGB."""
    from flux_core.sim import AlohaSim, import_mujoco

    with (recording / "episodes.jsonl").open(encoding="utf-8") as lines:
        episode = json.loads(next(lines))
    if not episode["success"]:
        raise SystemExit(f"make_images: error: the episode with seed {episode['seed']} failed")
    commands = np.load(recording / episode["file"])["command"]
    mujoco: Any = import_mujoco()
    with AlohaSim(cameras=(), fast_rendering=False) as sim:
        sim.reset(episode["seed"])
        renderer = mujoco.Renderer(sim.model, HEIGHT, WIDTH)
        for step, command in enumerate(commands):
            if step % STEPS_PER_FRAME == 0:
                renderer.update_scene(sim.data, camera=CAMERA)
                yield renderer.render().copy()
            sim.step(command)
        renderer.update_scene(sim.data, camera=CAMERA)
        yield renderer.render().copy()
        renderer.close()


def _write_film(frames: list[NDArray[np.uint8]], path: Path) -> None:
    """Writes a looping GIF in real time, with one palette for all frames."""
    palette = Image.fromarray(np.concatenate(frames[:: len(frames) // 4])).quantize(NUM_COLORS)
    pictures = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    durations = [STEPS_PER_FRAME * CONTROL_STEP_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True
    )


def _photograph(browser: str, page: Path, height: int, path: Path) -> None:
    """Writes a screenshot of the top of a page."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        flags = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--disable-background-networking", "--no-first-run"),
            f"--user-data-dir={folder}/profile",
            f"--window-size={PAGE_WIDTH},{height}",
            "--virtual-time-budget=8000",
            f"--screenshot={picture}",
        )
        command = [browser, *flags, page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        Image.open(picture).convert("RGB").save(path, optimize=True)


def _drive_modes(folder: Path) -> dict[str, Path]:
    """Drives the same episode in every mode, with the same delay; returns the recordings."""
    recordings: dict[str, Path] = {}
    for mode in MODES:
        run = ("flux-runtime", "run", "--robot", "aloha-sim", "--episodes", "1", "--mode", mode)
        episode = ("--seed", str(BORDERS_SEED), "--inference-delay", str(DELAY_STEPS))
        _flux(*run, *episode, "--record", folder / mode)
        recordings[mode] = folder / mode / "episode_000000.npz"
    return recordings


def _plot_borders(recordings: Mapping[str, Path], path: Path) -> None:
    """Draws how much the commands accelerate in every mode; a line marks where a chunk begins."""
    from matplotlib.figure import Figure

    from flux_core.robots import robot_spec
    from flux_runtime.engines.core import load_core

    spec = robot_spec("aloha-sim")
    joints = np.array(spec.units) == "rad"
    figure = Figure(figsize=(9.0, 7.2), layout="constrained")
    panels = figure.subplots(len(recordings), 1, sharex=True, sharey=True)
    for panel, (mode, recording) in zip(panels, recordings.items(), strict=True):
        with np.load(recording) as episode:
            seconds, command = episode["timestamp_s"], episode["command"][:, joints]
            is_border = (episode["flags"] & load_core().NEW_CHUNK) != 0
        acceleration = np.abs(np.diff(command.astype(np.float64), n=2, axis=0)).max(axis=1)
        for border in seconds[is_border]:
            panel.axvline(border, color="#c8ccd4", linewidth=0.8)
        panel.step(seconds[2:], acceleration * spec.control_hz**2, color="#1f5fbf", linewidth=1.2)
        panel.set_ylabel(f"{mode}\nrad/s²")
        panel.set_xlim(0.0, SHOWN_S)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_title(
        f"The largest acceleration of a joint's commands; inference delay {DELAY_STEPS} steps; a "
        "new chunk takes over at each line",
        fontsize=10,
        loc="left",
    )
    panels[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)


def _report(out: Path) -> int:
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    for name, size in sizes.items():
        print(f"{out / name}: {size / 1000:.0f} kB")
    if sum(sizes.values()) > MAX_TOTAL_BYTES:
        print(f"make_images: error: expected at most {MAX_TOTAL_BYTES} bytes in total")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
