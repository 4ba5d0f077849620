"""Each thing has one name: FluxVLA's names appear only at the edge, and names are unique."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("packages", "configs", "benchmarks", "scripts", "cpp")
SUFFIXES = {".py", ".pyi", ".json", ".sh", ".cpp", ".hpp", ".js", ".toml"}
# FluxVLA's spelling, and that of older files of ours -> what our code says.
GLOSSARY = {
    "num_steps": "num_inference_steps",
    "execute_horizon": "execution_horizon",
    "img_masks": "image_masks",
    "indexs": "indices",
    "use_quantiles": "norm_type",
    "ori_action_dim": "loss_action_dim",
    "ParquetPrompter": "TaskPrompter",
    "PrivatePrompter": "TaskPrompter",
    "PrivateInferenceDataset": "ObservationTransforms",
    "DenormalizePrivateAction": "DenormalizeActions",
}
# FluxVLA's keys and type names, and the class paths of before the names changed.
TRANSLATORS = tuple(
    f"packages/flux-core/src/flux_core/config/{name}.py"
    for name in ("compat", "old_paths", "llava")
)
# Written before the names changed; that they still open proves that old bundles do.
OLD_BUNDLES = "packages/flux-runtime/src/flux_runtime/policies/"
# Dataclasses nested as `Config`: each belongs to the class around it.
NESTED = "Config"


def _sources(tracked_files: list[Path]) -> dict[str, str]:
    paths = {path.relative_to(ROOT).as_posix(): path for path in tracked_files}
    return {
        name: path.read_text(encoding="utf-8")
        for name, path in paths.items()
        if name.startswith(SOURCES)
        and path.suffix in SUFFIXES
        and "/tests/" not in name
        and name not in TRANSLATORS
        and not name.startswith(OLD_BUNDLES)
    }


def test_foreign_spellings_are_found_only_in_the_translator(
    tracked_files: list[Path],
) -> None:
    words = re.compile(rf"\b({'|'.join(GLOSSARY)})\b")
    found = [
        f"{name}: {word} is called {GLOSSARY[word]}"
        for name, text in _sources(tracked_files).items()
        for word in words.findall(text)
    ]
    assert found == []


def test_the_translator_knows_every_foreign_spelling_that_a_config_may_hold() -> None:
    text = (ROOT / TRANSLATORS[0]).read_text(encoding="utf-8")
    # `indexs` was the name of a parameter, but never a key.
    assert [word for word in GLOSSARY if word != "indexs" and f'"{word}"' not in text] == []


def test_no_two_classes_of_the_packages_have_one_name(tracked_files: list[Path]) -> None:
    counts = Counter(
        node.name
        for name, text in _sources(tracked_files).items()
        if name.startswith("packages/") and name.endswith(".py")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef) and node.name != NESTED
    )
    assert {name: count for name, count in counts.items() if count > 1} == {}


def test_no_module_has_a_meaningless_name(
    tracked_files: list[Path],
) -> None:
    vague = {"golden", "progress", "summary", "private"}
    assert [path for path in tracked_files if path.suffix == ".py" and path.stem in vague] == []
