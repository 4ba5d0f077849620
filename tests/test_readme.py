"""Every code block of the README is run, here or by `make demo`.

An HTML comment on the line above a block says by whom:

    <!-- test: run -->    this module runs it in an empty folder, with .venv/bin on the PATH
    <!-- test: demo -->   each of its command lines is a target of the Makefile or one of COMMANDS
                          in scripts/demo.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(
    r"^(?:<!-- test: (?P<mark>\w+) -->\n)?"
    r"```(?P<language>bash|sh|shell|console|python|py)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One code block; `line` is where its code begins."""

    line: int
    mark: str | None
    language: str
    code: str

    @property
    def commands(self) -> list[str]:
        """Its shell lines, continued lines joined, comments and prompts left out."""
        lines = self.code.replace("\\\n", " ").splitlines()
        stripped = (" ".join(re.sub(r"\s#.*", "", line).split()) for line in lines)
        return [line for line in stripped if line and not line.startswith("#")]


def read_blocks(text: str) -> list[Block]:
    """Returns the shell and Python blocks of a Markdown text."""
    return [
        Block(
            line=text[: match.start("code")].count("\n") + 1,
            mark=match["mark"],
            language=match["language"],
            code=match["code"],
        )
        for match in BLOCK.finditer(text)
    ]


BLOCKS = read_blocks(README.read_text(encoding="utf-8")) if README.is_file() else []
NAMES = [f"line_{block.line}" for block in BLOCKS]


@pytest.mark.parametrize("block", BLOCKS, ids=NAMES)
def test_a_block_of_the_readme_does_what_it_says(block: Block, tmp_path: Path) -> None:
    assert block.mark in {"run", "demo"}, (
        f"README.md:{block.line}: expected a line '<!-- test: run -->' (or demo) above it"
    )
    if block.mark == "run":
        _run(block, tmp_path)
    else:
        known = _make_commands() | _demo_commands()
        unknown = [command for command in block.commands if _made(command) not in known]
        assert not unknown, f"README.md:{block.line}: `make demo` does not run {unknown}"


def test_the_readme_exists_and_shows_code() -> None:
    assert README.is_file(), "README.md is missing"
    assert BLOCKS, "README.md has no bash or python block"


def test_reading_blocks_sees_marks_lines_and_commands() -> None:
    text = (
        "# T\n\n<!-- test: run -->\n```bash\n# why\na \\\n  b  # c\n```\n\n```python\nx = 1\n```\n"
    )
    first, second = read_blocks(text)
    assert (first.line, first.mark, first.commands) == (5, "run", ["a b"])
    assert (second.line, second.mark, second.code) == (11, None, "x = 1\n")


def _run(block: Block, folder: Path) -> None:
    shutil.copytree(ROOT / "configs", folder / "configs", dirs_exist_ok=True)
    is_python = block.language.startswith("py")
    command = [sys.executable, "-c"] if is_python else ["bash", "-euo", "pipefail", "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, block.code],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"README.md:{block.line}\n{done.stdout}\n{done.stderr}"


def _made(command: str) -> str:
    """'make demo ARGS=...' -> 'make demo'."""
    return " ".join(command.split()[:2]) if command.startswith("make") else command


def _make_commands() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE)
    return {"make", *(f"make {target}" for target in targets)}


def _demo_commands() -> set[str]:
    """The command lines in scripts/demo.py's COMMANDS, as one would type them."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("flux_demo", ROOT / "scripts" / "demo.py")
    assert spec is not None and spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    return {c if isinstance(c, str) else " ".join(map(str, c)) for c in demo.COMMANDS}
