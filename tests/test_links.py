"""scripts/check_links.py finds every kind of broken link and reports nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = """\
# Your own data

## Names & units

## Names & units

<a id="by-hand"></a>
"""
GOOD = """\
# Title

[data](docs/data.md), [a heading](docs/data.md#names--units), [its
twin](docs/data.md#names--units-1), [by hand](docs/data.md#by-hand "A title"), [here](#title),
[elsewhere](https://example.org/nothing#here) and ![an image](docs/a%20b.png).
Paths: `docs/data.md`, `docs/data.md:3`, `demo_core/transforms`, `python docs/run.py --out x/y`,
`docs/*.md`, `docs/NAME.md`, `work_dirs/run/config.py`, `build/site` and `BUNDLE.engines/`.

```bash
cat docs/nothing.md  # [not a link](docs/nothing.md)
```

[reference]: docs/data.md#your-own-data
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small repository whose links are all valid."""
    transforms = tmp_path / "packages" / "demo-core" / "src" / "demo_core" / "transforms"
    for folder in (tmp_path / "docs", transforms, tmp_path / "build"):
        folder.mkdir(parents=True)
    (transforms / "units.py").touch()
    (tmp_path / ".gitignore").write_text("build/\n")
    (tmp_path / "docs" / "data.md").write_text(PAGE)
    for name in ("a b.png", "run.py"):
        (tmp_path / "docs" / name).touch()
    (tmp_path / "README.md").write_text(GOOD)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def _check(root: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(ROOT / "scripts" / "check_links.py"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_good_links_headings_and_paths_pass(checkout: Path) -> None:
    assert _check(checkout) == (0, ["check_links: no faults found in 2 files"])


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("[a](docs/gone.md)", "the link 'docs/gone.md' points to a missing file"),
        ("![a](docs/gone.png)", "the link 'docs/gone.png' points to a missing file"),
        (
            '<img src="docs/gone.png" width="9">',
            "the link 'docs/gone.png' points to a missing file",
        ),
        ("[a]: gone.md", "the link 'gone.md' points to a missing file"),
        ("[a](../..)", "the link '../..' points outside the repository"),
        ("[a](#gone)", "the link '#gone' points to a missing heading of README.md"),
        (
            "[a](docs/data.md#names-units)",
            "the link 'docs/data.md#names-units' points to a missing heading of docs/data.md",
        ),
        (
            "[a](docs/data.md#names--units-2)",
            "the link 'docs/data.md#names--units-2' points to a missing heading of docs/data.md",
        ),
        ("`docs/gone.py`", "there is no 'docs/gone.py' in the repository"),
        ("`bash docs/gone.sh ARGS`", "there is no 'docs/gone.sh' in the repository"),
        ("`docs/*.rst`", "there is no 'docs/*.rst' in the repository"),
        ("`docs/README.md`", "there is no 'docs/README.md' in the repository"),
        ("`demo_core/gone.py`", "there is no 'demo_core/gone.py' in the repository"),
    ],
)
def test_a_broken_link_is_reported_with_its_line(checkout: Path, broken: str, problem: str) -> None:
    readme = checkout / "README.md"
    readme.write_text(f"{GOOD}\n{broken}\n")
    line = len(readme.read_text().splitlines())
    assert _check(checkout) == (1, [f"README.md:{line}: {problem}"])
