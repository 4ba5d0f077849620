"""Checks every relative link, anchor and path in the Markdown files; needs no network.

    python scripts/check_links.py [ROOT]

A link's target must exist, and so must the heading of its anchor. A path in inline code
(`scripts/demo.py`, `flux_core/transforms`) must exist if its first folder exists, relative to the
Markdown file's folder, the root, or a package's source folder. A pattern (`docs/*.md`) must match
something; a path with a placeholder (`configs/NAME.py`) is ignored.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
CODE = re.compile(r"(`+)(.+?)\1")
LINKS = (
    re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)"),  # [text](target "title")
    re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)"),  # [name]: target
    re.compile(r"<(?:img|a|source)\b[^>]*?\b(?:src|href|srcset)=\"([^\"]+)\""),
)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
ANCHOR = re.compile(r"<[a-z0-9]+\b[^>]*?\b(?:id|name)=\"([^\"]+)\"")
EXTERNAL = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)
REAL_NAMES = "README|CHANGELOG|CONTRIBUTING|LICENSE"
PLACEHOLDER = re.compile(rf"\.\.\.|(?:^|/)(?!(?:{REAL_NAMES})\b)[A-Z][A-Z_]+(?:[/.]|$)")
PATH = re.compile(r"[\w.+*-]+(?:/[\w.+*-]*)+")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of Markdown outside of fenced code."""

    number: int
    text: str

    @property
    def prose(self) -> str:
        """The line without its inline code."""
        return CODE.sub("", self.text)

    @property
    def code(self) -> list[str]:
        """The words of its inline code."""
        return [word for match in CODE.finditer(self.text) for word in match[2].split()]


def lines_of(path: Path) -> Iterator[Line]:
    """Yields the lines outside of fenced code blocks."""
    fence = ""
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if match := FENCE.match(text):
            if not fence:
                fence = match[1]
            elif match[1].startswith(fence):
                fence = ""
            continue
        if not fence:
            yield Line(number=number, text=text)


def anchors_of(path: Path) -> set[str]:
    """Returns the anchors that GitHub creates for a file's headings, and those written as HTML."""
    anchors: set[str] = set()
    for line in lines_of(path):
        anchors.update(ANCHOR.findall(line.text))
        if heading := HEADING.match(line.text):
            name = slug = _slug(heading[1])
            count = 0
            while name in anchors:
                count += 1
                name = f"{slug}-{count}"
            anchors.add(name)
    return anchors


def _slug(heading: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # a link shows its text
    text = re.sub(r"[^\w\- ]", "", text.strip().lower())
    return text.replace(" ", "-")


def faults_of(path: Path, root: Path, paths: set[Path]) -> Iterator[str]:
    """Yields 'FILE:LINE: problem' for every broken link in one Markdown file."""
    for line in lines_of(path):
        where = f"{path.relative_to(root)}:{line.number}"
        for pattern in LINKS:
            for target in pattern.findall(line.prose):
                if problem := _problem_of_link(target, path, root, paths):
                    yield f"{where}: {problem}"
        for word in line.code:
            if _is_missing_path(word, path, root, paths):
                yield f"{where}: there is no '{word}' in the repository"


def _problem_of_link(target: str, path: Path, root: Path, paths: set[Path]) -> str | None:
    if EXTERNAL.match(target):
        return None
    name, _, anchor = target.partition("#")
    found = (path.parent / unquote(name)).resolve() if name else path
    if not found.is_relative_to(root):
        return f"the link '{target}' points outside the repository"
    if not _is_there(found, paths):
        return f"the link '{target}' points to a missing file"
    if anchor and found.suffix == ".md" and unquote(anchor) not in anchors_of(found):
        return f"the link '{target}' points to a missing heading of {found.relative_to(root)}"
    return None


def _is_missing_path(word: str, path: Path, root: Path, paths: set[Path]) -> bool:
    """Whether a word of inline code is a missing path whose first folder is in the repository."""
    word = re.sub(r"(?:::\w+|:\d+)$", "", word.strip(",;()'\""))  # a test's name or a line number
    if not PATH.fullmatch(word) or PLACEHOLDER.search(word):
        return False
    folders = [path.parent, root, *sorted((root / "packages").glob("*/src"))]
    ours = [folder for folder in folders if folder / word.split("/")[0] in paths]
    found = (match for folder in ours for match in _matches(folder, word))
    return bool(ours) and not any(_is_there(match, paths) for match in found)


def _matches(folder: Path, word: str) -> Iterable[Path]:
    return folder.glob(word.rstrip("/")) if "*" in word else (folder / word,)


def _is_there(found: Path, paths: set[Path]) -> bool:
    return found in paths and found.exists()


def paths_of(root: Path) -> set[Path]:
    """Returns the files that git tracks or would add, and the folders that hold them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True)
    files = {root / name for name in listed.stdout.decode().split("\0") if name}
    return files.union(*(file.parents for file in files))


def main(arguments: list[str]) -> int:
    """Prints all problems; returns 1 if there is one, else 0."""
    root = Path(arguments[0] if arguments else Path(__file__).parents[1]).resolve()
    paths = paths_of(root)
    files = sorted(path for path in paths if path.suffix == ".md" and path.is_file())
    faults = [fault for path in files for fault in faults_of(path, root, paths)]
    print("\n".join(faults) or f"check_links: no faults found in {len(files)} files")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
