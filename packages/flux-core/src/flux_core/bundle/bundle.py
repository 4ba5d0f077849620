"""A bundle: the one directory that training writes and the robot reads.

    manifest.json        what is in the bundle, with the size and sha256 of every other file
    config.json          the resolved training config and the inference transforms, as plain data
    norm_stats.json      {robot: {feature: {mean, std, min, max, q01, q99, count}}}
    tokenizer/           the tokenizer's files
    model.safetensors    the weights, referenced by both graphs as ONNX external data
    prefix.onnx          images and prompt -> keys and values
    denoise.onnx         one Euler step of the flow
    golden.safetensors   inputs, noise and the reference's output
    report.json          verification figures of the export

Nothing in a bundle is executed or unpickled. `Bundle.open` checks all of it before anything is
loaded or imported, and every fault is a BundleError of one line. Every `type` in config.json is a
component of flux, or of an installed distribution that the manifest lists with its version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .checks import AGAIN, DAMAGED, file_name
from .files import check_sha256, check_size, list_files, read_json_object, sha256_of
from .golden_file import GOLDEN_NAME, read_golden
from .graphs import WEIGHTS_NAME, check_bundle_graphs
from .manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileEntry,
    GraphSignature,
    Manifest,
    TensorSignature,
    manifest_data,
    parse_manifest,
)
from .settings import check_config, check_norm_stats

REQUIRED_FILES = ("config.json", "norm_stats.json", WEIGHTS_NAME, GOLDEN_NAME)

__all__ = [
    "GOLDEN_NAME",
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Bundle",
    "FileEntry",
    "GraphSignature",
    "Manifest",
    "TensorSignature",
    "parse_manifest",
    "write_manifest",
]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle.

    Attributes:
        directory: the bundle's directory.
        manifest: manifest.json, checked.
        config: config.json as plain data.
        norm_stats: norm_stats.json as plain data.
    """

    directory: Path
    manifest: Manifest
    config: dict[str, object]
    norm_stats: dict[str, dict[str, dict[str, object]]]

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        verify: bool = True,
        accept_versions: Collection[str] = (),
    ) -> Bundle:
        """Opens a bundle and checks it.

        Args:
            directory: the bundle's directory.
            verify: also compare the sha256 of every file; sizes and names are always checked.
            accept_versions: distributions whose components may have another version than at export
                (`--accept-version`).

        Raises:
            BundleError: the first fault found, in one line.
        """
        root = Path(directory)
        if root.exists() and not root.is_dir():
            raise BundleError(f"{root}: not a directory. Name the directory of a bundle.")
        if not root.is_dir():
            raise BundleError(f"{root}: no such directory. Write a bundle with flux-export.")
        try:
            names = list_files(root)
            if MANIFEST_NAME not in names:
                raise BundleError(
                    f"{root}: no {MANIFEST_NAME}, so this is not a bundle. Write one with "
                    f"flux-export."
                )
            manifest = parse_manifest(read_json_object(root / MANIFEST_NAME, MANIFEST_NAME))
            _check_files(root, names, manifest, verify=verify)
            check_bundle_graphs(root, manifest)
            config = read_json_object(root / "config.json", "config.json")
            norm_stats = read_json_object(root / "norm_stats.json", "norm_stats.json")
        except OSError as error:
            raise _unreadable(root, error) from error
        check_config(config, manifest, accept_versions)
        check_norm_stats(norm_stats)
        return cls(directory=root, manifest=manifest, config=config, norm_stats=norm_stats)

    @property
    def where(self) -> str:
        """Where the bundle is, for messages."""
        return str(self.directory)

    @property
    def sha256(self) -> str:
        """Of the bytes of manifest.json.

        Raises:
            BundleError: it cannot be read.
        """
        try:
            return sha256_of(self.directory / MANIFEST_NAME)
        except OSError as error:
            raise _unreadable(self.directory, error) from error

    def path(self, name: str) -> Path:
        """Returns the path of a file, or of the folder of files, that the manifest lists."""
        listed = self.manifest.files
        if name != MANIFEST_NAME and name not in listed:
            folder = name.rstrip("/") + "/"
            if not any(entry.startswith(folder) for entry in listed):
                raise BundleError(f"{name}: not in the bundle {self.directory}. {AGAIN}")
        return self.directory / name

    def for_prompts(self, prompt_tokens: int) -> Bundle:
        """Returns the bundle with its shortest graphs that take so many prompt tokens."""
        return self.with_bucket(self.manifest.bucket_for(prompt_tokens))

    def with_bucket(self, prompt_tokens: int | None) -> Bundle:
        """Returns the bundle with the graphs of one bucket; None: with those for any prompt."""
        if prompt_tokens is None:
            return self
        graphs = self.manifest.prompt_buckets[prompt_tokens]
        manifest = replace(
            self.manifest, graphs=graphs, max_prompt_tokens=prompt_tokens, prompt_buckets={}
        )
        return replace(self, manifest=manifest)

    def golden(self) -> dict[str, NDArray[np.generic]]:
        """Returns the reference's inputs and outputs, checked against the graphs' signatures.

        Keys: `input.<name>` for each user input, `input.noise` and `output.actions` (1, H, A)
        float32, `output.x_next_first` (1, H, A) float32 where the exporter wrote it.
        """
        try:
            return read_golden(self.path(GOLDEN_NAME), self.manifest)
        except OSError as error:
            raise _unreadable(self.directory, error) from error


def write_manifest(directory: str | os.PathLike[str], manifest: Manifest) -> Manifest:
    """Hashes the files of a finished directory and writes manifest.json beside them, atomically.

    Args:
        directory: holds every file of the bundle except the manifest; an older manifest is
            replaced.
        manifest: all fields; `files` is ignored and filled in. Graphs may be plain dicts.

    Returns:
        The manifest as written.

    Raises:
        BundleError: the manifest or a file would be refused by `Bundle.open`.
    """
    root = Path(directory)
    partial = root / f"{MANIFEST_NAME}.partial"
    partial.unlink(missing_ok=True)
    names = [name for name in list_files(root) if name != MANIFEST_NAME]
    entries = {
        file_name("file", name): FileEntry(
            sha256=sha256_of(root / name), bytes=(root / name).stat().st_size
        )
        for name in names
    }
    data = manifest_data(replace(manifest, files=entries))
    checked = parse_manifest(data)
    _check_required(checked)
    content = json.dumps(data, indent=2, allow_nan=False) + "\n"
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, root / MANIFEST_NAME)
    return checked


def _check_required(manifest: Manifest) -> None:
    """Refuses a file list without the files that every bundle has."""
    graph_files = [graph.file for graph in manifest.graphs.values()]
    for name in (*REQUIRED_FILES, *graph_files):
        if name not in manifest.files:
            raise BundleError(f"{MANIFEST_NAME}: files: {name} is not listed. {AGAIN}")


def _check_files(root: Path, names: list[str], manifest: Manifest, *, verify: bool) -> None:
    """Compares the directory with the manifest: names first, then sizes, then hashes."""
    _check_required(manifest)
    listed = manifest.files
    if MANIFEST_NAME in listed:
        raise BundleError(f"{MANIFEST_NAME}: files: must not list itself. {AGAIN}")
    for name in listed:
        if (root / name).is_dir():
            raise BundleError(f"{name}: expected a file, got a directory. {DAMAGED}")
        if name not in names:
            raise BundleError(f"{name}: listed in the manifest, not in the bundle. {DAMAGED}")
    for name in names:
        if name not in listed and name != MANIFEST_NAME:
            raise BundleError(
                f"{ascii(name)[1:-1]}: in the bundle, not listed in the manifest. Remove the file, "
                f"or export the bundle again."
            )
    for name, entry in listed.items():
        check_size(root / name, name, entry.bytes)
    if verify:
        for name, entry in listed.items():
            check_sha256(root / name, name, entry.sha256)


def _unreadable(root: Path, error: OSError) -> BundleError:
    """Returns an error that names the file that could not be read."""
    where = ascii(os.fspath(error.filename or root))[1:-1]
    return BundleError(
        f"{where}: cannot be read ({error.strerror}). Check the permissions and the disk."
    )
