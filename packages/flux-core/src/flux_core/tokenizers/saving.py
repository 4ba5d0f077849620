"""Stores a tokenizer beside a checkpoint or in a bundle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ..errors import ConfigError
from .byte_tokenizer import ByteTokenizer
from .pretrained import PretrainedTokenizer, find_tokenizer_file
from .qwen import build_qwen

BYTE_TOKENIZER_FILE = "byte_tokenizer.json"


def save_tokenizer(config: ByteTokenizer | PretrainedTokenizer, directory: Path) -> None:
    """Writes the files that `config` needs into `directory`, so that it is self-contained."""
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(config, ByteTokenizer):
        (directory / BYTE_TOKENIZER_FILE).write_text(
            json.dumps({"type": "ByteTokenizer", **dataclasses.asdict(config)}) + "\n"
        )
        return
    if config.model_path is None:
        raise ConfigError("tokenizer.model_path: expected the tokenizer to save, got None")
    source = find_tokenizer_file(Path(config.model_path))
    if source.is_dir():
        build_qwen(source).save(str(directory / "tokenizer.json"), pretty=False)
        return
    (directory / ("tokenizer" + source.suffix)).write_bytes(source.read_bytes())
