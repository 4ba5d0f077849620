"""Checks the documents against the code: commands of figures, names in tables, and links."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .documents import COMMANDS, DOCUMENTS, ROOT, faults_of, help_of, is_command, name_of
from .documents import subcommands as listed_subcommands

DOCS = ROOT / "docs"
SUBJECTS = (
    *("architecture", "data", "engines", "export", "robots", "training"),
    *("aloha", "cameras", "lerobot-arms", "recordings", "ros2", "ur"),
)
IMAGES = DOCS / "images"
MAX_IMAGE_BYTES = 2_000_000

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
FIGURE = re.compile(
    r"\d[\d.,]*\s?(?:%|GiB|MiB|GB|MB|kB|ms|samples/s|(?:s|min|minutes?|seconds?|times)\b)"
)
# Limits and settings, which are not measured.
LIMITS = {"2 GiB", "400 MB", "256 MiB", "512 MiB"}
FLUXVLA_SPELLINGS = re.compile(r"\b(num_steps|execute_horizon|PrivatePrompter|img_masks)\b")


def _text(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def _tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yields each table's header and rows; `\\|` is a bar inside a cell."""
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows:
            header, _, *body = rows
            yield header, body
            rows = []


def _measured() -> list[list[str]]:
    tables = _tables(_text(DOCS / "numbers.md"))
    return [row for header, rows in tables if "command" in header for row in rows]


@pytest.mark.parametrize("row", _measured(), ids=lambda row: row[0][:60])
def test_every_measured_figure_has_a_command_that_exists_and_a_machine(row: list[str]) -> None:
    figure, value, command, machine = row
    assert re.search(r"\d", value), f"{figure}: expected a number, got {value!r}"
    spans = [span for span in SPAN.findall(command) if is_command(span)]
    assert spans, f"{figure}: expected a command, got {command!r}"
    assert not [fault for span in spans for fault in faults_of(span)]
    machines = re.findall(r"^- \*\*(\w)\*\*:", _text(DOCS / "numbers.md"), re.MULTILINE)
    assert machine.split(",")[0] in machines


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_measured_figure_is_stated_in_numbers_alone(subject: str) -> None:
    found = FIGURE.findall(_text(DOCS / f"{subject}.md"))
    assert not [figure for figure in found if figure not in LIMITS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_point_to_existing_files_and_headings(document: Path) -> None:
    broken = []
    for link in LINK.findall(_text(document)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        is_broken = not target.exists() or (anchor and anchor not in _anchors(target))
        broken += [link] if is_broken else []
    assert not broken


def _anchors(document: Path) -> set[str]:
    """Returns the anchors that GitHub creates for the headings."""
    headings = re.findall(r"^#+ (.+)$", _text(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _where_to_change() -> list[list[str]]:
    tables = _tables(_text(ROOT / "CONTRIBUTING.md"))
    return [row for header, rows in tables if header[0] == "to change" for row in rows]


@pytest.mark.parametrize("row", _where_to_change(), ids=lambda row: row[0][:60])
def test_the_files_in_contributing_contain_the_names_beside_them(row: list[str]) -> None:
    what, place, names = row
    (link,) = LINK.findall(place)
    text = _text(ROOT / link)
    wanted = SPAN.findall(names)
    assert wanted, f"{what}: expected names in the last column"
    assert not [name for name in wanted if not re.search(rf"\b{re.escape(name)}\b", text)]


def test_contributing_lists_the_usual_changes() -> None:
    whats = " ".join(row[0].lower() for row in _where_to_change())
    for subject in (
        *("image augmentation", "gripper limit", "learning-rate schedule", "chunk player"),
        *("html report", "lerobot v3.0 writer", "normalisation", "tokenizer", "prompt"),
        *("checkpoint format", "export precision", "safety limits", "an option of"),
    ):
        assert subject in whats, subject


def _all_commands() -> Iterator[tuple[str, ...]]:
    for program in COMMANDS:
        paths: list[tuple[str, ...]] = [(program,)]
        while paths:
            path = paths.pop()
            names = listed_subcommands(path)
            paths += [(*path, name) for name in names]
            if not names:
                yield path
    yield from (("flux-train", "report"), ("flux-train", "consolidate"))


@pytest.mark.parametrize("path", sorted(set(_all_commands())), ids=" ".join)
def test_commands_md_lists_every_command_and_option(path: tuple[str, ...]) -> None:
    text = _text(DOCS / "commands.md").partition(f"\n## {path[0]}\n")[2].partition("\n## ")[0]
    assert " ".join(path) in text
    options = set(re.findall(r"^ {2,}(--[a-z][a-z-]*)", help_of(path), re.MULTILINE))
    options -= {"--help", "--debug", "--json"}
    assert not [option for option in sorted(options) if option not in text]


def test_fluxvlas_spellings_are_only_explained() -> None:
    found = [
        f"{name_of(document)}: {paragraph.strip()[:80]}"
        for document in DOCUMENTS
        for paragraph in re.split(r"\n\n|\n- ", _text(document))
        if FLUXVLA_SPELLINGS.search(paragraph) and "FluxVLA" not in paragraph
    ]
    assert not found


def test_pictures_are_small_and_shown() -> None:
    pictures = [path for path in IMAGES.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in pictures) < MAX_IMAGE_BYTES
    shown = "".join(_text(document) for document in DOCUMENTS)
    script = _text(ROOT / "scripts" / "make_images.py")
    assert [p.name for p in pictures if p.name not in shown or p.name not in script] == []


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning"]
    places = ["-c", "docs/site", "-d", str(tmp_path / "trees"), ".", str(tmp_path / "site")]
    done = subprocess.run([*command, *places], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


def test_the_documented_installations_name_packages_and_extras_that_exist() -> None:
    commands = re.findall(r"`(pip install [^`]+)`", _text(ROOT / "README.md"))
    assert len(commands) == 2
    for command in commands:
        named = re.findall(r"\./(packages/[\w-]+)(?:\[(\w+)\])?", command)
        assert named
        for folder, extra in named:
            project = tomllib.loads(_text(ROOT / folder / "pyproject.toml"))["project"]
            assert not extra or extra in project["optional-dependencies"], command
