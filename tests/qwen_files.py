"""Qwen's tokenizer in the three files in which it is published, from the shared data."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path


def write_qwen_files(source: Path, folder: Path) -> None:
    """Writes `vocab.json`, `merges.txt` and `added_tokens.json`.

    Ids 0 to 255 are GPT-2's characters for bytes, and id 256 + i is the i-th merge.
    """
    merges = lzma.decompress((source / "qwen_merges.txt.xz").read_bytes()).decode()
    lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
    tokens = [*byte_characters(), *(line.replace(" ", "") for line in lines)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text(merges)
    shutil.copyfile(source / "qwen_added_tokens.json", folder / "added_tokens.json")


def byte_characters() -> list[str]:
    """GPT-2's order: bytes that are printable stand for themselves, the others follow."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
