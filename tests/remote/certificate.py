"""Makes a certificate as a user does."""

from __future__ import annotations

from pathlib import Path

from flux_runtime.cli import main


def made_certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Makes a certificate for these names, and returns the files of it and its key."""
    assert main(["serve", "--make-cert", *names, "--cert-dir", str(folder)]) == 0
    return folder / "flux-serve.crt", folder / "flux-serve.key"
