"""Settings of the documentation site: Sphinx over the Markdown files of the repository.

    make docs

Every warning is an error, nothing is fetched from the network, and the pages load nothing from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

project = "flux"
version = release = "2026.11.0"
extensions = ["myst_parser"]
myst_heading_anchors = 3

# The source folder is the repository, so that links between its documents stay what they are.
root_doc = "README"
source_suffix = {".md": "markdown"}
include_patterns = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "configs/README.md", "docs/*.md"),
    *("packages/*/README.md", "packages/flux-runtime/src/flux_runtime/policies/README.md"),
]
exclude_patterns = [".*", "build", "work_dirs", "datasets", "demo_output", "packages/*/cpp"]
# The READMEs of the packages are in no section; links lead to them.
suppress_warnings = ["toc.not_included"]

html_theme = "alabaster"
html_theme_options = {
    "description": "Train a policy on your own demonstrations, and run it on a robot.",
    "fixed_sidebar": True,
    "page_width": "1120px",
    "sidebar_width": "230px",
}
html_copy_source = False
html_show_sourcelink = False

SECTIONS = {
    "Use": (
        *("docs/commands", "configs/README"),
        *(f"docs/{page.stem}" for page in sorted((ROOT / "docs").glob("your-own-*.md"))),
    ),
    "Understand": (
        *("docs/architecture", "docs/data", "docs/training", "docs/export"),
        *("docs/engines", "docs/gpu", "docs/robots", "docs/remote", "docs/safety"),
        *("docs/deployment-check", "docs/recordings", "docs/replay", "docs/numbers"),
    ),
    "Robots": (
        *("docs/aloha", "docs/ur", "docs/lerobot-arms"),
        *("docs/ros2", "docs/cameras"),
    ),
    "Work on it": ("CONTRIBUTING", "CHANGELOG"),
}


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_contents(app: Any, page: str, source: list[str]) -> None:
    """Gives the first page the site's contents, which the repository's README does without."""
    if page != root_doc:
        return
    for title, pages in SECTIONS.items():
        entries = "\n".join(f"/{name}" for name in pages)
        options = f":hidden:\n:caption: {title}\n:maxdepth: 1"
        source[0] += f"\n\n```{{toctree}}\n{options}\n\n{entries}\n```\n"


def add_index(app: Any, error: Exception | None) -> None:
    """Leads from the folder to its first page."""
    if error is None:
        page = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
