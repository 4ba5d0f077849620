"""Ten thousand episodes: the cost of opening, and statistics that are computed only once."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_core.transforms import RelativeActions
from flux_data.samples import mixture as repeating_dataset
from flux_data.samples.mixture import DistributedRepeatingDataset

from ..samples.test_order import config_of

EPISODES, LENGTH = 10_000, 150
OPEN = """
import json, sys, time
from pathlib import Path
begin = time.perf_counter()
from flux_data.samples import ParquetDataset
from flux_data.samples import ProcessParquetInputs
inputs = ProcessParquetInputs(parquet_keys=("observation.state", "actions"), video_keys=())
config = ParquetDataset.Config(
    data_root_path=sys.argv[1], transforms=(inputs,), action_key="action", window_start_idx=0
)
dataset = config.build()
print(json.dumps({
    "samples": len(dataset),
    "seconds": time.perf_counter() - begin,
    "mib": int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024,
}))
"""


def write_v21(root: Path, info: dict[str, Any]) -> None:
    lines = [
        json.dumps({"episode_index": i, "tasks": ["fold"], "length": LENGTH})
        for i in range(EPISODES)
    ]
    (root / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    (root / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "fold"}))


def write_v30(root: Path, info: dict[str, Any]) -> None:
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    columns: dict[str, Any] = {
        "episode_index": range(EPISODES),
        "length": [LENGTH] * EPISODES,
        "data/chunk_index": [0] * EPISODES,
        "data/file_index": [0] * EPISODES,
        "dataset_from_index": range(0, EPISODES * LENGTH, LENGTH),
    }
    table = pa.table({name: pa.array(list(values)) for name, values in columns.items()})
    pq.write_table(table, root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["fold"]}), root / "meta" / "tasks.parquet")


@pytest.mark.parametrize(
    ("version", "write"), [("v2.1", write_v21), ("v3.0", write_v30)], ids=["v21", "v30"]
)
def test_opening_ten_thousand_episodes_reads_only_metadata(
    version: str, write: Any, shared_data: Path, tmp_path: Path
) -> None:
    name = "v21" if version == "v2.1" else "v30c"
    info = json.loads((shared_data / "lerobot" / name / "meta" / "info.json").read_text())
    info["features"] = {k: f for k, f in info["features"].items() if f["dtype"] != "video"}
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    write(tmp_path, info)
    command = [sys.executable, "-c", OPEN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["samples"] == EPISODES * LENGTH
    # There is not even a data folder to read.
    assert report["mib"] < 300
    print(f"{version}: {report['seconds']:.2f} s, {report['mib']:.0f} MiB")


def test_statistics_are_computed_once_for_the_same_data(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    computed: list[int] = []
    original = repeating_dataset.exact_stats
    monkeypatch.setattr(
        repeating_dataset, "exact_stats", lambda *a: computed.append(1) or original(*a)
    )
    dataset = config_of(shared_data / "lerobot" / "v21")
    config = DistributedRepeatingDataset.Config(datasets=dataset)
    first, again = config.build().stats, config.build().stats
    assert len(computed) == 1 and first == again
    dataclasses.replace(config, min_range=0.5).build()
    assert len(computed) == 2
    relative = dataclasses.replace(
        dataset, transforms=(*dataset.transforms, RelativeActions(mask=(True,) * 14))
    )
    dataclasses.replace(config, datasets=relative).build()
    dataclasses.replace(
        config, datasets=dataclasses.replace(relative, action_window_size=4)
    ).build()
    assert len(computed) == 4
    dataclasses.replace(config, datasets=relative).build()
    assert len(computed) == 4
