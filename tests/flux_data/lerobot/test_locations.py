"""The places of datasets: a directory, or the local copy of a URL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flux_core.errors import DataError
from flux_data.commands.main import main
from flux_data.lerobot.dataset import open_lerobot
from flux_data.lerobot.locations import local_root

STATE = "observation.state"


@pytest.fixture
def no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_LEROBOT_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("FSSPEC_FILECACHE_CACHE_STORAGE", raising=False)


@pytest.fixture
def filecache(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_caches: None
) -> str:
    """A dataset in a bucket (here in memory) that was read once through fsspec's filecache."""
    fsspec = pytest.importorskip("fsspec")
    storage, bucket = tmp_path / "filecache", fsspec.filesystem("memory")
    for path in (shared_data / "lerobot" / "v21").rglob("*"):
        if path.suffix in (".json", ".jsonl", ".parquet"):
            name = path.relative_to(shared_data / "lerobot" / "v21").as_posix()
            bucket.pipe(f"/bucket/towel/{name}", path.read_bytes())
    cached = fsspec.filesystem("filecache", fs=bucket, cache_storage=str(storage))
    for name in bucket.find("/bucket/towel"):
        with cached.open(name) as file:
            file.read()
    cached.save_cache()
    bucket.rm("/bucket", recursive=True)
    monkeypatch.setenv("FSSPEC_FILECACHE_CACHE_STORAGE", str(storage))
    return "s3://bucket/towel"


@pytest.mark.parametrize("prefix", ["", "filecache::"])
def test_a_bucket_is_read_from_fsspecs_file_cache(
    prefix: str, filecache: str, shared_data: Path
) -> None:
    source = open_lerobot(f"{prefix}{filecache}/")
    expected = open_lerobot(shared_data / "lerobot" / "v21").columns([STATE])[STATE]
    np.testing.assert_array_equal(source.columns([STATE])[STATE], expected)
    assert local_root(filecache) == source.root
    with pytest.raises(DataError, match="s3://bucket/tow: is not in the cache .*Copy it"):
        local_root("s3://bucket/tow")


def test_a_file_that_the_cache_lacks_is_named(filecache: str, tmp_path: Path) -> None:
    gone = open_lerobot(filecache).data_file(3)
    gone.readlink().unlink()
    with pytest.raises(DataError, match="episode_000003.parquet: the parquet file of episode 3 is"):
        open_lerobot(filecache).columns([STATE])


@pytest.mark.parametrize("url", ["s3://bucket/towel", "gs://bucket/towel", "hf://spaces/a/b"])
def test_a_url_without_a_local_copy_is_refused_with_advice(url: str, no_caches: None) -> None:
    with pytest.raises(DataError, match=f"{url}: is not on this machine. Copy it to a directory"):
        local_root(url)
    with pytest.raises(DataError, match=r"Download it first: hf download a/b --repo-type dataset"):
        local_root("hf://datasets/a/b")


def test_a_hub_dataset_is_found_in_the_cache(no_caches: None, tmp_path: Path) -> None:
    snapshot = tmp_path / "hf_hub_cache" / "datasets--a--b" / "snapshots" / "0123"
    (snapshot / "meta").mkdir(parents=True)
    (snapshot / "meta" / "info.json").touch()
    assert local_root("hf://datasets/a/b") == snapshot


def test_a_url_survives_being_made_a_path(
    shared_data: Path, filecache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line turns its argument into a Path, which loses a slash."""
    folder = shared_data / "lerobot" / "v21"
    assert local_root(f"file://{folder}") == local_root(Path(f"file://{folder}")) == folder
    for url in (f"file://{folder}", filecache):
        assert main(["info", url]) == 0
        assert "12 episodes" in capsys.readouterr().out


@pytest.mark.parametrize("make", [str, Path])
def test_another_cache_of_fsspecs_is_refused_by_name(make: type, no_caches: None) -> None:
    for url in ("simplecache::s3://bucket/towel", "filecache::blockcache::s3://bucket/towel"):
        with pytest.raises(DataError, match=r"expected filecache::, .* got (simple|block)cache::"):
            local_root(make(url))
