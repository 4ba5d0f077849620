"""Distributions as pip leaves them in a folder, whose modules leave a mark when imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MODULE = '''
from dataclasses import dataclass
from pathlib import Path

Path(__file__).with_suffix(".imported").touch()


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Changes nothing."""

    def __call__(self, sample):
        return sample


class Unconfigured:
    pass


NAMES = {"Tabled": f"{__name__}:Recorder"}
'''


def write_module(folder: Path, name: str, content: str = MODULE) -> Path:
    """Writes a module; returns the file that it makes when it is imported."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(content)
    return folder / f"{name}.imported"


def write_distribution(
    folder: Path, name: str, version: str, entry_points: Mapping[str, str]
) -> Path:
    """Installs a distribution with a module of its own; returns the mark of that module.

    Args:
        folder: what goes on the module path.
        name: of the distribution; the module is called the same, with underscores.
        version: of the distribution.
        entry_points: of the group flux.components.
    """
    module = name.replace("-", "_")
    mark = write_module(folder, module)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{key} = {value}" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[flux.components]", *lines, ""]))
    return mark
