"""Runs `flux-data repair`, and checks what must hold of every repair."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from flux_data.commands.main import main

from ..coded_dataset import TOP


def data_v2(episode: int) -> str:
    return f"data/chunk-000/episode_{episode:06d}.parquet"


def video_v2(episode: int) -> str:
    return f"videos/chunk-000/{TOP}/episode_{episode:06d}.mp4"


def video_v3(file: int) -> str:
    return f"videos/{TOP}/chunk-000/file-{file:03d}.mp4"


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What the command did: its exit code, its lines and its report, and the dataset."""

    code: int
    lines: Sequence[str]
    error: str
    root: Path

    def said(self, kind: str) -> list[str]:
        return [line for line in self.lines if line.startswith(kind)]


@pytest.fixture
def repair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Repaired]:
    """Repairs a dataset; checks that the source stays as it is and the result has no faults."""

    def run(root: Path, *options: str) -> Repaired:
        out, before = tmp_path / "out", content(root)
        capsys.readouterr()
        code = main(["repair", str(root), "--out", str(out), *options])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert content(root) == before, "the source was changed"
        assert not list(tmp_path.glob(".out*")), "hidden files were left behind"
        if out.exists():
            assert main(["validate", str(out)]) == 0, capsys.readouterr().out
        errors = [line for line in said.err.splitlines() if "error:" in line]
        assert len(errors) == (not out.exists()), said.err
        return Repaired(code=code, lines=said.out.splitlines(), error="".join(errors), root=out)

    return run


def content(root: Path) -> dict[str, str]:
    """Returns name -> checksum of all files below a folder."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
