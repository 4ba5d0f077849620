"""Small episodes for recordings: two cameras, a depth camera and a mobile base.

    python made_episodes.py VERSION FOLDER

records in FOLDER/0, FOLDER/1 and so on until a recording comes to its end. Each is cut off, as by
SIGKILL, at its next change of a name in the file system.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from flux_data.record.growing import GROWING, GrowingDataset
from flux_data.record.live_episode import LiveEpisode, Picture
from flux_data.record.recording import Plan, plan_of

FPS, LENGTH, HEIGHT, WIDTH = 25.0, 3, 16, 24
CUT_OFF, WHOLE = 3, 0
FIRST_CHANGE = 4
"""The changes before are those of the first episode's files."""
NUM_EPISODES = 2
"""Of a recording that is cut off."""


def dataset_message(**changes: Any) -> dict[str, Any]:
    """What a run says of the dataset."""
    return {
        "robot": "arm",
        "fps": FPS,
        "state": ["a", "b"],
        "action": ["a", "b"],
        "cameras": {"top": [HEIGHT, WIDTH], "wrist": [HEIGHT, WIDTH]},
        "extras": {
            "top_depth": {"kind": "depth", "names": [], "shape": [HEIGHT, WIDTH]},
            "base": {"kind": "vector", "names": ["linear", "angular"], "shape": [2]},
        },
        "is_realtime": True,
        **changes,
    }


def plan(**changes: Any) -> Plan:
    return plan_of(dataset_message(**changes))


def growing(
    root: Path, version: str, robot: str = "arm", fps: float = FPS, **changes: Any
) -> GrowingDataset:
    features = plan(fps=fps, **changes).features
    return GROWING[version](root, fps=fps, robot_type=robot, features=features)


def brightness(episode: int, row: int) -> int:
    return 40 * (episode % 6) + 10 * row


def add_episode(dataset: GrowingDataset, number: int, length: int = LENGTH) -> None:
    """Appends an episode whose values say where they belong."""
    features = plan().features
    with LiveEpisode(dataset.staging(str(number)), FPS, features) as live:
        for row in range(length):
            bright = brightness(number, row)
            image = np.full((HEIGHT, WIDTH, 3), bright, np.uint8)
            depth = np.full((HEIGHT, WIDTH), 100 * bright, np.uint16)
            values = np.array([number, row], np.float32)
            live.add(
                {key: values for key, feature in features.items() if len(feature["shape"]) == 1},
                {
                    "observation.images.top": picture(image),
                    "observation.images.wrist": picture(image) if row != 1 else None,
                    "observation.images.top_depth": picture(depth),
                },
            )
        facts = {"outcome": "finished", "success": number % 2 == 0, "reason": None, "seed": number}
        dataset.add(live.close(f"task {number % 2}", facts))


def picture(pixels: np.ndarray) -> Picture:
    return Picture(pixels=pixels, release=lambda: None)


def record_until(root: Path, version: str, last: int) -> None:
    """Records, and ends this process without any clean-up at change number `last`."""
    changes = 0

    def counted(call: Any) -> Any:
        def change(*args: Any, **options: Any) -> None:
            nonlocal changes
            if changes == last:
                os._exit(CUT_OFF)
            changes += 1
            call(*args, **options)

        return change

    os.replace = counted(os.replace)
    os.fsync = lambda descriptor: None  # a process that is killed does not need it
    with growing(root, version) as dataset:
        for number in range(NUM_EPISODES):
            add_episode(dataset, number)
            (root.parent / f"{root.name}.finished").write_text(str(number + 1))
    os._exit(WHOLE)


def main() -> None:
    version, folder = sys.argv[1], Path(sys.argv[2])
    last = FIRST_CHANGE
    while True:
        child = os.fork()  # before anything has started a thread
        if not child:
            record_until(folder / str(last), version, last)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != CUT_OFF:
            sys.exit(os.waitstatus_to_exitcode(status))
        last += 1


if __name__ == "__main__":
    main()
