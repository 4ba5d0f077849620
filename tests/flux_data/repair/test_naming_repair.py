"""Every command that refuses a damaged dataset names `flux-data repair`, where it helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flux_core.errors import FluxError
from flux_data.commands.main import main
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..coded_dataset import ACTION, STATE, TOP, plain
from ..small_dataset import edit_info

COMMANDS = {
    "info": ["info", "DIR"],
    "validate": ["validate", "DIR"],
    "stats": ["stats", "DIR"],
    "convert": ["convert", "DIR", "--to", "v2.1", "--out", "OUT"],
    "merge": ["merge", "DIR", "DIR", "--out", "OUT"],
    "split": ["split", "DIR", "--out", "OUT", "one=0.5", "two=0.5"],
    "view": ["view", "DIR", "--out", "OUT.html"],
    "observations": ["observations", "DIR", "--cameras", "top", "--out", "OUT.npz"],
    "pack": ["pack", "DIR", "--workers", "1", "--out", "OUT"],
}


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_refuses_a_dataset_names_repair(
    name: str, version: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plain(version, missing=(("episode", 1),)).write(tmp_path / "damaged")
    places = {"DIR": str(root), "OUT": str(tmp_path / "out")}
    argv = [places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in COMMANDS[name]]
    assert main(argv) == 1
    said = capsys.readouterr()
    assert (said.out + said.err).count(f"flux-data repair {root} --out DIR") == 1


@pytest.mark.parametrize("missing", ["video", "data", "episode"])
def test_training_names_repair(missing: Any, tmp_path: Path) -> None:
    root = plain("v2.1", missing=((missing, 1),)).write(tmp_path / "damaged")
    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions", "timestamp"), video_keys=(TOP,))
    config = ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs,),
        action_window_size=2,
        action_key=ACTION,
        window_start_idx=0,
    )
    with pytest.raises(FluxError, match=f"flux-data repair {root} --out DIR"):
        samples = config.build()
        for number in range(len(samples)):
            samples[number]


def test_repair_is_not_named_where_it_cannot_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plain().write(tmp_path / "damaged")
    edit_info(fps=...)(root)
    assert main(["info", str(root)]) == 1
    assert main(["validate", str(root)]) == 1
    said = capsys.readouterr()
    assert "flux-data repair" not in said.out + said.err


def test_training_reads_a_shortened_list_with_a_warning_and_refuses_lost_episodes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def config(root: Path) -> ParquetDataset.Config:
        inputs = ProcessParquetInputs(
            parquet_keys=(STATE, "actions", "timestamp"), video_keys=(TOP,)
        )
        return ParquetDataset.Config(
            data_root_path=str(root),
            transforms=(inputs,),
            action_window_size=2,
            action_key=ACTION,
            window_start_idx=0,
        )

    dataset = plain("v2.1", missing=(("line", 2),))
    assert len(config(dataset.write(tmp_path / "shortened")).build()) == 8
    said = [message for message in caplog.messages if "total_episodes" in message]
    assert len(said) == 1 and "are there, but not read" in said[0]
    root = plain("v2.1", missing=(("episode", 2),)).write(tmp_path / "lost")
    with pytest.raises(FluxError, match=f"flux-data repair {root} --out DIR"):
        config(root).build()


def test_files_of_other_programs_are_not_a_dataset_to_repair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "episode_0.hdf5").write_bytes(b"not HDF5")
    argv = ["convert", "aloha-hdf5", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*argv, "--order", "left-right", "--fps", "50", "--task", "fold"]) == 1
    error = capsys.readouterr().err
    assert "episode_0.hdf5" in error
    assert "repair" not in error


def test_datasets_that_do_not_agree_are_not_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [plain(files=(("meta/modality.json", text),)) for text in ("{}", '{"a": 1}')]
    places = [str(root.write(tmp_path / str(i))) for i, root in enumerate(roots)]
    assert main(["merge", *places, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "remove it or make it equal" in error
    assert "repair" not in error
