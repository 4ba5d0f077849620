"""Reads the project's documents: extracts code blocks and checks that commands exist."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
YOUR_OWN = tuple(ROOT / "docs" / f"your-own-{what}.md" for what in ("robot", "data", "transform"))
"""In the order in which tests/integration/test_your_own.py follows them."""
POLICIES = ROOT / "packages" / "flux-runtime" / "src" / "flux_runtime" / "policies"
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "configs" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "packages").glob("*/README.md")),
    POLICIES / "README.md",
)

COMMANDS = ("flux-core", "flux-data", "flux-train", "flux-export", "flux-eval", "flux-runtime")
# Not listed by `flux-train --help`.
MORE_SUBCOMMANDS = {("flux-train",): {"report", "consolidate"}}
FOREIGN = {"pip", "cmake", "sbatch"}

BLOCK = re.compile(
    r"^(?:<!-- (?:test: (?P<mark>\w+)|file: (?P<file>\S+)) -->\n)?"
    r"```(?P<language>bash|sh|shell|console|python|py|toml|yaml)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One code block; `line` is the first line of its code, `file` the file that it shows."""

    line: int
    mark: str | None
    file: str | None = None
    language: str
    code: str

    @property
    def commands(self) -> list[str]:
        """Its shell lines, with continued lines joined and without comments and prompts."""
        lines = self.code.replace("\\\n", " ").splitlines()
        stripped = (" ".join(re.sub(r"\s#.*", "", line).split()) for line in lines)
        return [line for line in stripped if line and not line.startswith("#")]


def read_blocks(text: str) -> list[Block]:
    """Returns the shell, Python and TOML blocks of a Markdown text, and YAML that is a file."""
    return [
        Block(
            line=text[: match.start("code")].count("\n") + 1,
            mark=match["mark"],
            file=match["file"],
            language=match["language"],
            code=match["code"],
        )
        for match in BLOCK.finditer(text)
        if match["file"] or match["language"] != "yaml"
    ]


def unknown_names(code: str) -> list[str]:
    """Returns the names that a Python block imports and that do not exist."""
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if not hasattr(importlib.import_module(node.module), alias.name)
    ]


def name_of(document: Path) -> str:
    """Returns the path relative to the repository."""
    return document.relative_to(ROOT).as_posix()


def is_command(text: str) -> bool:
    """Whether a code span is a command line, not a name or a path."""
    first = text.split()[0].rpartition("/")[2] if text.split() else ""
    return first in {*COMMANDS, "make", "bash", "python", "torchrun"} and len(text.split()) > 1


def faults_of(command: str) -> list[str]:
    """Returns the missing programs, options and files in a command line, without running it."""
    words = [word.strip("\"'") for word in command.split()]
    program, *rest = words
    program = re.sub(r"^\.venv(-libero|-act)?/bin/", "", program)
    if program in FOREIGN:
        return []
    if program == "make":
        return [f"no target {rest[0]!r}"] if f"make {rest[0]}" not in make_commands() else []
    if program == "torchrun":
        return faults_of(" ".join(["flux-train", *rest[rest.index("flux_train") + 1 :]]))
    if program in ("bash", "python"):
        return _script_faults(rest)
    if program in COMMANDS:
        return _flux_faults(program, rest) + missing_configs(rest)
    return [f"no command {program!r}"]


def missing_configs(words: list[str]) -> list[str]:
    """Returns a line for each config file among `words` that does not exist."""
    configs = [word for word in words if word.startswith("configs/")]
    return [f"no file {word}" for word in configs if not (ROOT / word).is_file()]


def _script_faults(words: list[str]) -> list[str]:
    """Checks files and options in `python benchmarks/x.py --option` or `python -m pytest FILE`."""
    if words[:2] == ["-m", "pytest"]:
        paths = [word for word in words[2:] if word.startswith("tests/")]
        return [f"no file {path}" for path in paths if not (ROOT / path).exists()]
    script = ROOT / words[0]
    if not script.is_file():
        return [f"no file {words[0]}"]
    text = _with_modules_beside(script)
    options = [option for option in _options(words) if f'"{option}"' not in text]
    if '"$@"' in text:  # handed on to LeRobot's command, whose options have dots
        options = [option for option in options if "." not in option]
    return [f"{words[0]} has no option {option}" for option in options]


def _with_modules_beside(script: Path) -> str:
    """Returns a script's text, and that of the modules in its folder that it imports."""
    text = script.read_text(encoding="utf-8")
    names = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
    modules = [script.with_name(f"{name}.py") for name in names]
    return "\n".join([text, *(m.read_text(encoding="utf-8") for m in modules if m.is_file())])


def _flux_faults(program: str, words: list[str]) -> list[str]:
    path: tuple[str, ...] = (program,)
    for word in words:
        known = MORE_SUBCOMMANDS.get(path, set()) | subcommands(path)
        if word not in known:
            break
        path = (*path, word)
    shown = help_of(path)
    return [
        f"{' '.join(path)} has no option {option}"
        for option in _options(words)
        if not re.search(rf"(?<![\w-]){option}(?![\w-])", shown)
    ]


def _options(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def subcommands(path: tuple[str, ...]) -> set[str]:
    """Returns the subcommands in the help of a command."""
    head = help_of(path).partition("\noptions:")[0].partition("positional arguments:")[2]
    return set(re.findall(r"^ {4}([a-z][a-z0-9-]*)(?= |$)", head, re.MULTILINE))


@cache
def help_of(path: tuple[str, ...]) -> str:
    """Returns the output of a command's `--help`, in this process: there are many commands."""
    program, *words = path
    (target,) = {entry.value for entry in entry_points(group="console_scripts", name=program)}
    module, _, function = target.partition(":")
    main = getattr(importlib.import_module(module), function)
    shown = io.StringIO()
    with (
        patch.dict(os.environ, COLUMNS="400"),
        patch.object(sys, "argv", [program]),
        contextlib.redirect_stdout(shown),
    ):
        try:
            code = main([*words, "--help"])
        except SystemExit as error:
            code = error.code
    assert not code, (path, code)
    return shown.getvalue()


def make_commands() -> set[str]:
    """Returns 'make' and 'make TARGET' for every target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE)
    return {"make", *(f"make {target}" for target in targets)}


def load_script(path: Path) -> ModuleType:
    """Returns a script as a module, without running its command."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def demo_commands() -> set[str]:
    """Returns the command lines in scripts/demo.py's COMMANDS, as a user would type them."""
    demo = load_script(ROOT / "scripts" / "demo.py")
    return {c if isinstance(c, str) else " ".join(map(str, c)) for c in demo.COMMANDS}
