"""Makes a certificate as a user does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..serving import command_line


def made_certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Makes a certificate for these names, and returns the files of it and its key."""
    words = command_line("serve", "--make-cert", *names, "--cert-dir", folder)
    subprocess.run(words, check=True, capture_output=True)
    return folder / "flux-serve.crt", folder / "flux-serve.key"
