"""Times the decoding and resizing of a training frame.

    python benchmarks/frames.py DATASET

Reads random frames of all videos in a LeRobot directory, as training does. PIL's filter, which the
robot uses, and torch's, which training uses, resize the same frames in turns. Prints the largest
difference between their results in grey levels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flux_core.transforms import ResizeImages
from flux_data.samples.resize import resize_frame
from flux_data.video.reader import VideoReader, video_facts

TOLERANCE_S = 1e-3
REPEAT = 3
Image = NDArray[np.uint8]


def main() -> None:
    """Prints the medians as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="a LeRobot directory")
    parser.add_argument(
        "--frames", type=int, default=200, help="total number of frames (default: 200)"
    )
    parser.add_argument(
        "--size", type=int, default=224, help="size of the result in pixels (default: 224)"
    )
    args = parser.parse_args()
    videos = sorted((args.dataset / "videos").rglob("*.mp4"))
    if not videos:
        parser.error(f"{args.dataset}: expected videos/**/*.mp4, got none")
    torch.set_num_threads(1)
    print(json.dumps(measure(videos, args.frames, args.size), indent=1))


def measure(videos: list[Path], num_frames: int, size: int) -> dict[str, object]:
    """Returns the median milliseconds per frame, and ratios derived from them."""
    rng, reader = np.random.default_rng(0), VideoReader()
    resize = ResizeImages(height=size, width=size)
    milliseconds: dict[str, list[float]] = {"decode": [], "torch": [], "pil": []}
    largest = 0
    for _ in range(num_frames):
        path = videos[rng.integers(len(videos))]
        when_s = float(rng.choice(video_facts(path).times_s))
        frame = timed(
            lambda p=path, t=when_s: reader.frame(p, t, TOLERANCE_S), milliseconds["decode"]
        )
        fast = timed(lambda f=frame: resize_frame(f, resize), milliseconds["torch"], REPEAT)
        exact = timed(lambda f=frame: resize.resize(f), milliseconds["pil"], REPEAT)
        largest = max(largest, int(np.abs(fast.astype(int) - exact).max()))
    median = {name: statistics.median(values) for name, values in milliseconds.items()}
    return {
        "shape": list(frame.shape),
        "median_ms": median,
        "decode_share": median["decode"] / (median["decode"] + median["torch"]),
        "torch_speedup_over_pil": median["pil"] / median["torch"],
        "largest_difference_grey_levels": largest,
    }


def timed(work: Callable[[], Image], milliseconds: list[float], repeat: int = 1) -> Image:
    """Returns the result of `work`, and appends the shortest time of `repeat` calls."""
    durations = []
    for _ in range(repeat):
        begin = time.perf_counter()
        result = work()
        durations.append((time.perf_counter() - begin) * 1e3)
    milliseconds.append(min(durations))
    return result


if __name__ == "__main__":
    main()
