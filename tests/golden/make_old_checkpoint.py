"""Writes old_checkpoint.pt with a version of flux from before its modules moved into folders.

    git worktree add /elsewhere/old 4687912
    python tests/golden/make_old_checkpoint.py /elsewhere/old EPISODE tests/golden

EPISODE is a LeRobot dataset of one episode of 14 joints (the tests make one, `one_episode`). The
network is as small as it can be. Its config has sections of classes that had no registered name
then, and names its own class as it was: `flux_train.config:TrainConfig`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH = 2
DATASET = "train_dataloader.dataset.datasets"
OPTIONS = [
    *(
        f"model.{part}.{key}"
        for part in ("llm_backbone", "llm_expert")
        for key in (
            *(f"hidden_size={WIDTH}", f"intermediate_size={WIDTH}", "num_hidden_layers=1"),
            *("num_attention_heads=1", "head_dim=2"),
        )
    ),
    "model.vision_backbone.hidden_size=4",
    "model.vision_backbone.stem_channels=2",
    "model.projector.in_dim=4",
    f"model.projector.out_dim={WIDTH}",
    f"model.llm_expert.adarms_cond_dim={WIDTH}",
    f"model.proj_width={WIDTH}",
    f"model.action_in_proj.out_dim={WIDTH}",
    f"model.action_out_proj.in_dim={WIDTH}",
    "model.rtc_training_config={'enabled': True, 'max_delay': 4}",
    "inference.rtc_config={'enabled': True}",
    "runner.num_noise_samples=1",
    "runner.ema_decay=0",
    "runner.log_interval=1",
    "runner.max_steps=2",
    "runner.max_epochs=None",
    "train_dataloader.per_device_batch_size=2",
    "train_dataloader.per_device_num_workers=0",
    f"{DATASET}.data_root_path=episode",
    f"{DATASET}.transforms.3.max_len=64",
    "inference.dataset.transforms.2.max_len=64",
]


def main(old: str, episode: str, out: str) -> None:
    paths = [str(path) for path in Path(old).glob("packages/*/src")]
    config = Path(old, "configs", "pi05", "pi05_small_aloha_sim.py")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "episode").symlink_to(Path(episode).resolve())
        command = [sys.executable, "-m", "flux_train", str(config), "run"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        subprocess.run(
            [*command, "--cfg-options", *OPTIONS], env=environment, check=True, cwd=folder
        )
        shutil.copyfile(
            Path(folder, "run", "checkpoint_epoch_1.pt"), Path(out, "old_checkpoint.pt")
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
