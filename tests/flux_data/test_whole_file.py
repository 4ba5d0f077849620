"""Written files are complete or absent; a full disk is reported in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_core.errors import DataError
from flux_data.commands.main import main
from flux_data.whole_file import whole_file

from .small_dataset import write_v21

COMMANDS = {
    "view": ["--episodes", "1", "--size", "16"],
    "observations": ["--cameras", "top", "--count", "2"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "set"
    write_v21(folder)
    return folder


def full(*args: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_appears_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_text("old")
    with pytest.raises(ValueError, match="mine"), whole_file(path) as file:
        file.write(b"new")
        raise ValueError("mine")
    assert path.read_text() == "old"
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line_and_leaves_the_old_file(
    command: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    assert main([command, str(root), "--out", str(out), *COMMANDS[command]]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{out}: cannot be written (No space left on device). Choose another --out" in message
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]
    monkeypatch.undo()
    assert main([command, str(root), "--out", str(out), *COMMANDS[command]]) == 0
    assert out.stat().st_size > 1000 and list(tmp_path.iterdir()) == [out]


def test_a_folder_that_cannot_be_written_to_is_reported_once(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = "/proc/some.npz"
    assert main(["observations", str(root), "--out", out, *COMMANDS["observations"]]) == 1
    assert f"{out}: cannot be written (" in capsys.readouterr().err.splitlines()[-1]


def test_a_device_is_written_to_and_not_replaced() -> None:
    with whole_file(Path("/dev/null")) as file:
        file.write(b"x")
    assert not Path("/dev/null").is_file()


def test_an_error_about_another_file_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), whole_file(tmp_path / "some"):
        (tmp_path / "other").read_bytes()
    with pytest.raises(DataError, match=r"some: cannot be written \(No such file"):
        whole_file(tmp_path / "gone" / "some").__enter__()
