"""Refuses weights without the config and the statistics that a bundle needs."""

from __future__ import annotations

from pathlib import Path

from flux_core.errors import ExportError
from flux_core.models.weights import refuse_adapter

NAMES = ("model.safetensors", "model.safetensors.index.json")
BUNDLE = ("manifest.json", "norm_stats.json")


def refuse_weights_alone(path: Path) -> None:
    """Refuses a file or a folder of weights, and names the checkpoint beside them.

    Raises:
        CheckpointError: it holds only an adapter.
        ExportError: it holds only weights.
    """
    if path.is_dir():
        refuse_adapter(path)
        is_bundle = any((path / name).exists() for name in BUNDLE)
        is_alone = not is_bundle and any((path / name).exists() for name in NAMES)
        if not is_bundle and not is_alone and (saved := _checkpoints(path)):
            raise ExportError(
                f"{path}: expected checkpoint_epoch_N.pt or a bundle, got a work dir. Export "
                f"{saved[0]} instead"
            )
    else:
        is_alone = ".safetensors" in path.suffixes and path.is_file()
    if not is_alone:
        return
    folder = path if path.is_dir() else path.parent
    found = [path.with_suffix(".pt")] if path.is_file() else []
    found += _checkpoints(folder)
    beside = next((file for file in found if file.is_file()), None)
    remedy = f"Export {beside} instead" if beside else "Export the checkpoint_*.pt of the training"
    raise ExportError(
        f"{path}: expected checkpoint_epoch_N.pt, which also holds the config and the statistics, "
        f"got weights alone. {remedy}"
    )


def _checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, the newest first."""
    return sorted(folder.glob("checkpoint_*.pt"), key=lambda file: -file.stat().st_mtime_ns)
