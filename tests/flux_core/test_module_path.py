"""Which directories modules are imported from while a command runs."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from flux_core.command_line import with_directories, without_current_directory


def test_the_current_directory_is_left_out_in_every_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    other = str(tmp_path / "other")
    before = ["", ".", str(tmp_path / "here"), str(tmp_path / "link"), other, "../here"]
    monkeypatch.setattr(sys, "path", list(before))
    with without_current_directory():
        assert sys.path == [other]
    assert sys.path == before


def test_installed_packages_stay_importable_in_every_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packages = sysconfig.get_paths()["purelib"]
    monkeypatch.chdir(packages)
    monkeypatch.setattr(sys, "path", ["", packages])
    with without_current_directory():
        assert sys.path == [packages]


def test_a_current_directory_that_was_removed_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "path", ["", str(tmp_path)])
    with without_current_directory():
        assert sys.path == [str(tmp_path)]
    os.chdir(tmp_path)


def test_added_directories_come_last_and_are_removed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with with_directories(tmp_path / "configs", Path()):
        assert sys.path == [*before, str(tmp_path / "configs"), str(tmp_path)]
    assert sys.path == before
