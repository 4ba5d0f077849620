"""Which names the installed distributions register as components; imports none of them.

A distribution registers a class by an entry point of its own in the group `flux.components`:

    [project.entry-points."flux.components"]
    MyTransform = "my_package.transforms:MyTransform"
    "tokenizer.MyTokenizer" = "my_package.tokenizers:MyTokenizer"

The name is what a config writes as `type`. A component that is not a transform has its kind, one of
`kinds.FIELD_KINDS`, before the name. Older distributions have one entry point for a table in
capitals, `name -> 'module:Class'`, which must be imported to be read: training accepts those names,
but a bundle cannot contain them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from .._components import COMPONENTS
from ..errors import ConfigError
from .kinds import DEFAULT_KIND

ENTRY_POINT_GROUP = "flux.components"
OURS = ("flux-core", "flux-data", "flux-train", "flux-runtime")
"""Our distributions share one version; schema versions decide which of their files can be read."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One name of one distribution.

    Attributes:
        name: what a config writes as `type`.
        kind: its kind; see `kinds`. Empty for a name from a table.
        target: 'module:Class'.
        distribution: the name of the distribution that registers it, as pip shows it.
        version: of the distribution.
    """

    name: str
    kind: str
    target: str
    distribution: str
    version: str

    @property
    def is_ours(self) -> bool:
        """Whether a package of flux registers it."""
        return is_ours(self.distribution)


def is_ours(distribution: str) -> bool:
    """Whether the distribution is a package of flux."""
    return normalized(distribution) in OURS


def normalized(distribution: str) -> str:
    """A distribution's name in the form used for comparison: 'My_Arm' becomes 'my-arm'."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def registration(name: str, where: str) -> Registration | None:
    """Returns who registers a name by an entry point of its own, or None.

    Raises:
        ConfigError: two distributions do; `where` says which field names it.
    """
    return only(installed().get(name, ()), where)


def only(found: tuple[Registration, ...], where: str) -> Registration | None:
    """Returns the one registration of a name; two are an error that names both."""
    if len(found) > 1:
        who = " and ".join(f"{each.distribution} ({each.target})" for each in found)
        raise ConfigError(
            f"{where}: {found[0].name!r} is registered by {who}. Uninstall one of them, or have "
            "it choose another name."
        )
    return found[0] if found else None


def installed() -> Mapping[str, tuple[Registration, ...]]:
    """Returns every name of our packages and of other distributions' entry points."""
    return _installed(tuple(sys.path))  # the result depends on it


def tables(package: str | None = None) -> Mapping[str, tuple[Registration, ...]]:
    """Imports the tables of older distributions and returns their names.

    Args:
        package: only the tables inside this top-level package.
    """
    return _tables(tuple(sys.path), package)


@lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> dict[str, tuple[Registration, ...]]:
    found = [
        Registration(
            name=name,
            kind=kind,
            target=target,
            distribution=target.partition(".")[0].replace("_", "-"),
            version=_our_version(),
        )
        for kind, names in COMPONENTS.items()
        for name, target in names.items()
    ]
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        kind, _, name = entry.name.rpartition(".")
        if not (_may_be_table(entry) and name != _attribute(entry)):
            found.append(_registration(entry, name, kind or DEFAULT_KIND, _target(entry)))
    return _by_name(found)


@lru_cache(maxsize=16)
def _tables(path: tuple[str, ...], package: str | None) -> dict[str, tuple[Registration, ...]]:
    found: list[Registration] = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        is_wanted = package is None or _target(entry).partition(":")[0].split(".")[0] == package
        table = _loaded(entry) if is_wanted and _may_be_table(entry) else None
        if isinstance(table, Mapping):
            found += [_registration(entry, str(name), "", str(t)) for name, t in table.items()]
    return _by_name(found)


def _loaded(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        who = _registration(entry, entry.name, "", _target(entry))
        raise ConfigError(
            f"{who.distribution} {who.version}: its entry point {entry.name!r} ({who.target}) in "
            f"{ENTRY_POINT_GROUP} cannot be loaded: {error}. Repair it, or uninstall it."
        ) from error


def _may_be_table(entry: EntryPoint) -> bool:
    """Whether its attribute is in capitals, as a constant is, or a class called `ACT`."""
    return _attribute(entry).isupper()


def _attribute(entry: EntryPoint) -> str:
    return _target(entry).partition(":")[2].rpartition(".")[2]


def _target(entry: EntryPoint) -> str:
    """'module:Class' of a value that may end in '[extra]'."""
    return "".join(entry.value.partition("[")[0].split())


def _registration(entry: EntryPoint, name: str, kind: str, target: str) -> Registration:
    dist = entry.dist
    return Registration(
        name=name,
        kind=kind,
        target=target,
        distribution=str(dist.name) if dist is not None else "an unknown distribution",
        version=str(dist.version) if dist is not None else "unknown",
    )


def _by_name(found: list[Registration]) -> dict[str, tuple[Registration, ...]]:
    names: dict[str, tuple[Registration, ...]] = {}
    for each in found:
        names[each.name] = (*names.get(each.name, ()), each)
    return names


def _our_version() -> str:
    from .. import __version__  # not yet known while the package itself is imported

    return __version__
