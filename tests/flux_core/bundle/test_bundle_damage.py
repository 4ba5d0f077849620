"""The shipped policy, damaged or forged in every way we could think of: each has its own error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flux_core.bundle.bundle import MANIFEST_NAME, Bundle
from flux_core.errors import BundleError
from flux_core.policy_io import PolicyIO
from flux_runtime.cli import main
from flux_runtime.run.command import shipped_policy

from . import damaged_files, forged_graphs
from .damage_table import CASES, Case
from .damaged_files import FILES
from .toy_bundle import change_graph

assert damaged_files and forged_graphs, "importing them fills the table"
MAX_PEAK_BYTES = 80 * 2**20
"""The intact bundle has 6 MiB; the worst case is a JSON file of 4 MiB."""


@pytest.fixture(scope="module")
def shipped() -> Path:
    return shipped_policy("aloha-sim")


@pytest.fixture
def bundle(shipped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shipped, tmp_path / "bundle")


def open_everything(path: Path) -> None:
    """Does what `flux-runtime run` does with a bundle before an engine gets it."""
    bundle = Bundle.open(path)
    bundle.golden()
    PolicyIO.from_bundle(bundle)


def message_of(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_everything(path)
    return str(caught.value)


def test_the_undamaged_bundle_opens(bundle: Path) -> None:
    open_everything(bundle)


def test_a_recomputed_hash_alone_is_accepted(bundle: Path) -> None:
    change_graph(bundle, lambda model: None)
    open_everything(bundle)


@pytest.mark.parametrize("row", CASES, ids=[row.name for row in CASES])
def test_each_damage_has_its_own_line(row: Case, bundle: Path) -> None:
    row.damage(bundle)
    tracemalloc.start()
    try:
        message = message_of(bundle)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [other.name for other in CASES if other.expected in message] == [row.name], message
    assert "\n" not in message and len(message) < 500 and message.endswith((".", "?"))
    assert peak < MAX_PEAK_BYTES


ABSURD = (
    "absurd_product",
    "many_absurd_tensors",
    "an_absurd_input",
    "a_huge_input",
    "weights_that_are_too_long",
    "weights_of_a_huge_shape",
    "a_constant_without_its_bytes",
    "a_constant_of_few_numbers",
    "a_gigantic_manifest",
    "a_gigantic_header",
)


def test_absurd_sizes_are_refused_without_allocating_them(shipped: Path, tmp_path: Path) -> None:
    rows = {row.name: row for row in CASES}
    for name in ABSURD:
        rows[name].damage(shutil.copytree(shipped, tmp_path / name))
    program = f"""
import resource, sys
from pathlib import Path
from flux_core.bundle import Bundle
from flux_core.errors import BundleError
from flux_core.policy_io import PolicyIO

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + {MAX_PEAK_BYTES}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        Bundle.open(path)
    except BundleError as error:
        print(error)
"""
    paths = [str(tmp_path / name) for name in ABSURD]
    result = subprocess.run(
        [sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True
    )
    messages = result.stdout.splitlines()
    for name, message in zip(ABSURD, messages, strict=True):
        assert rows[name].expected in message


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything, so the process becomes another user for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", [*FILES, MANIFEST_NAME, "tokenizer"])
def test_a_file_that_may_not_be_read_is_named(name: str, shipped: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copytree(shipped, Path(folder) / "bundle")
        Path(folder).chmod(0o755)
        for part in (path, *path.rglob("*")):
            part.chmod(0o755)
        (path / name).chmod(0)
        with nobody():
            message = message_of(path)
        (path / name).chmod(0o755)
    assert message.startswith(f"{path / name}: cannot be read (Permission denied).")


def test_the_command_prints_one_line_and_fails(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {row.name: row for row in CASES}
    rows["weights_beside_the_bundle"].damage(bundle)
    assert main(["check", str(bundle)]) == 1
    error = capsys.readouterr().err
    assert rows["weights_beside_the_bundle"].expected in error and error.count("\n") == 1


def test_each_row_is_a_different_damage() -> None:
    assert len(CASES) > 140
    assert len({row.name for row in CASES}) == len({row.expected for row in CASES}) == len(CASES)
