"""A class of a user's own that cannot be used is refused in one line, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_core.config import bind, load_config
from flux_core.errors import ConfigError, FluxError
from flux_core.transforms import Transform

PLACE = "inference.dataset.transforms.3"
MODULE = """
from dataclasses import dataclass
from flux_core.transforms import Transform

@dataclass(frozen=True, kw_only=True)
class Mine(Transform):
    def __call__(self, sample):
        return dict(sample)

class Plain: pass

def function(): pass
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_package" / "inner").mkdir(parents=True)
    (tmp_path / "own_package" / "inner" / "steps.py").write_text(MODULE)
    (tmp_path / "own_syntax.py").write_text("x = 1\ndef broken(:\n")
    (tmp_path / "own_failure.py").write_text("\nraise RuntimeError('two\\nlines')\n")
    (tmp_path / "own_exit.py").write_text("import sys\nsys.exit('no card')\n")
    (tmp_path / "own_import.py").write_text("from json import nothing\n")
    (tmp_path / "own_need.py").write_text("import no_such_module\n")


def refusal(name: str) -> str:
    with pytest.raises(FluxError) as error:
        bind(Transform, {"type": name}, PLACE)
    return str(error.value)


def test_a_class_in_a_package_inside_a_package_is_found() -> None:
    found = bind(Transform, {"type": "own_package.inner.steps:Mine"}, PLACE)
    assert type(found).__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own_syntax:Mine", "fails when it is imported: "),
        ("own_syntax:Mine", "own_syntax.py:2: SyntaxError: invalid syntax"),
        ("own_failure:Mine", "own_failure.py:2: RuntimeError: two lines"),
        ("own_exit:Mine", "own_exit.py:2: SystemExit: no card"),
        ("own_import:Mine", "own_import.py:1: ImportError: cannot import name 'nothing'"),
        ("own_need:Mine", "needs the module 'no_such_module', which is not installed"),
        ("own_missing:Mine", "beside the config or in the current directory"),
        (".own_package:Mine", "Write the module as an import does"),
        ("./own_package/steps.py:Mine", "Write the module as an import does"),
        (":Mine", "Write the module as an import does"),
        ("own_package.inner.steps:Plain", "Plain: expected a dataclass"),
        ("own_package.inner.steps:function", "to be a class, got <function"),
        ("own_package.inner.steps:Other", "has no attribute 'Other'"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_at_its_place(name: str, expected: str) -> None:
    message = refusal(name)
    assert message.startswith(f"{PLACE}.type: ")
    assert expected in message
    assert "\n" not in message


def test_a_config_that_ends_the_program_is_refused_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text("import sys\n\nsys.exit('first\\nsecond')\n")
    with pytest.raises(ConfigError, match=r"config\.py:3: SystemExit: first second$"):
        load_config(config)
