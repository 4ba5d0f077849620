"""Checks config.json and norm_stats.json before anything is built from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..config.deployable import Use, registrations, uses
from ..config.installed import Registration, is_ours, normalized
from ..errors import BundleError, ConfigError
from .checks import AGAIN, LARGEST, fail, integer, mapping, number, record, sequence, show
from .manifest import ComponentSource, Manifest

_MAX_DIMS = 1024
_VALUES = sequence(number(-LARGEST, LARGEST), low=1, high=_MAX_DIMS)
_FEATURE = {
    **dict.fromkeys(("mean", "min", "max", "q01", "q99"), _VALUES),
    "std": sequence(number(0.0, LARGEST), low=1, high=_MAX_DIMS),
    "count": integer(0, 2**63),
}


def component_sources(config: Mapping[str, Any]) -> dict[str, ComponentSource]:
    """Returns the manifest's `components` for a config, from what is installed here.

    Raises:
        ConfigError: it names something that a bundle may not.
    """
    return {
        name: ComponentSource(distribution=found.distribution, version=found.version)
        for name, found in registrations(config).items()
    }


def check_config(
    data: dict[str, Any], manifest: Manifest, accept_versions: Collection[str] = ()
) -> None:
    """Refuses a config with a `type` that does not match the manifest; imports nothing.

    Each must be registered here by the distribution that the manifest names, in the same version,
    and be allowed in its field. Versions of flux itself may differ: schema_version decides what can
    be read.

    Args:
        data: config.json, all of it.
        manifest: the manifest of the same bundle.
        accept_versions: distributions whose version may differ from the manifest.

    Raises:
        BundleError: with the place in the file.
    """
    accepted = {normalized(name) for name in accept_versions}
    for use in uses(data):
        try:
            found = use.registration()
        except ConfigError as error:
            raise BundleError(f"config.json: {error}") from error
        if manifest.schema_version >= 3:
            _check_source(use, found, manifest, accepted)
        elif not found.is_ours and normalized(found.distribution) not in accepted:
            raise BundleError(
                f"config.json: {use.where}: {found.name!r} is of {found.distribution} "
                f"{found.version}, but a bundle of schema_version 2 does not say its version. "
                f"Export the checkpoint again, or add --accept-version {found.distribution}."
            )


def _check_source(
    use: Use, found: Registration, manifest: Manifest, accepted: Collection[str]
) -> None:
    """Compares the distribution that registers a name here with the one at export."""
    name, where = str(use.name), f"config.json: {use.where}"
    source = manifest.components.get(name)
    if source is None:
        raise BundleError(f"{where}: {show(name)} is not in the manifest's components. {AGAIN}")
    if found.is_ours and is_ours(source.distribution):
        return
    if normalized(found.distribution) != normalized(source.distribution):
        raise BundleError(
            f"{where}: expected {show(name)} of {show(source.distribution)} as in the manifest, "
            f"got that of {found.distribution}. Install the distribution used in training."
        )
    if found.version != source.version and normalized(found.distribution) not in accepted:
        raise BundleError(
            f"{where}: expected {show(name)} of {found.distribution} {show(source.version)[1:-1]} "
            f"as in the manifest, got {found.version}. Install that version, or add "
            f"--accept-version {found.distribution}."
        )


def check_norm_stats(data: dict[str, Any]) -> None:
    """Refuses anything but {robot: {feature: statistics}} of finite numbers.

    Raises:
        BundleError: with the place in the file.
    """
    mapping(mapping(_feature))("norm_stats.json", data)


def _feature(where: str, value: Any) -> None:
    feature = record(where, value, _FEATURE)
    dims = {len(feature[name]) for name in _FEATURE if name != "count"}
    if len(dims) > 1:
        fail(where, "lists of one length", sorted(dims))
