"""Installs distributions without pip, as a folder on sys.path with `.dist-info` and modules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Installer = Callable[..., Path]

MODULE = '''
from dataclasses import dataclass
from pathlib import Path

from flux_core.transforms import Transform

Path(__file__).with_suffix(".imported").touch()


@dataclass(frozen=True, kw_only=True)
class Recorder(Transform):
    """Changes nothing."""

    def __call__(self, sample):
        return sample


NAMES = {"Tabled": f"{__name__}:Recorder"}
'''


def write_module(folder: Path, name: str, content: str = MODULE) -> Path:
    """Writes a module; returns the path of the file that it creates when it is imported."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(content)
    return folder / f"{name}.imported"


def write_distribution(
    folder: Path, name: str, version: str, entry_points: Mapping[str, str]
) -> Path:
    """Installs a distribution with one module; returns the file that importing the module creates.

    Args:
        folder: a folder on the module path.
        name: name of the distribution and, with underscores, of the module.
        version: version of the distribution.
        entry_points: entry points in the group flux.components.
    """
    module = name.replace("-", "_")
    mark = write_module(folder, module)
    install(folder, name, {"flux.components": entry_points}, version=version)
    return mark


def install(
    site: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str] | None = None,
    version: str = "1.0",
) -> Path:
    """Writes the files that pip would install to `site`, and returns `site`; put it on sys.path.

    Args:
        site: the folder; created if it does not exist.
        name: name of the distribution.
        entry_points: group -> name -> 'module:object'.
        modules: module -> its source.
        version: version of the distribution.
    """
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines: list[str] = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for module, source in (modules or {}).items():
        (site / f"{module}.py").write_text(source)
    return site


def installer(folder: Path, monkeypatch: pytest.MonkeyPatch, group: str) -> Installer:
    """Returns a function that installs a distribution below `folder` for one test.

    It takes the distribution's name, `{entry point: 'module:object'}`, modules by name, and
    optionally another group of entry points.
    """

    def add(
        name: str,
        points: Mapping[str, str],
        modules: Mapping[str, str] | None = None,
        group: str = group,
    ) -> Path:
        site = install(folder / name, name, {group: points}, modules)
        monkeypatch.syspath_prepend(str(site))
        for module in modules or {}:
            monkeypatch.delitem(sys.modules, module, raising=False)
        return site

    return add
