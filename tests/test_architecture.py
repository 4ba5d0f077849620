"""Who may import whom: docs/architecture.md, enforced."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

from flux_core.config import NETWORKS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "packages"
MAX_LINES = 600
MAX_MODULES = 15

# package -> the siblings it may import
ALLOWED: dict[str, set[str]] = {
    "flux_core": set(),
    "flux_data": {"flux_core"},
    "flux_train": {"flux_core", "flux_data"},
    "flux_driver": set(),
    "flux_runtime": {"flux_core", "flux_driver"},
}
# Packages that are installed with another one.
INSTALLED_WITH = {"flux_driver": "flux-runtime"}
# The parts of a package that may need torch; `()` means none, and "" the whole package.
MAY_NEED_TORCH: dict[str, tuple[str, ...]] = {
    "flux_core": ("models/",),
    "flux_data": ("samples/resize.py",),
    "flux_train": ("",),
    "flux_driver": (),
    "flux_runtime": ("export",),
}

# The rooms of each package, the lowest first: a room imports only rooms that come before it.
ROOMS: dict[str, tuple[str, ...]] = {
    "flux_core": (
        *("errors", "incomplete_file", "lazy", "types", "pictures", "command_line", "html"),
        *("rtc",),
        *("config", "bundle", "robots", "norm_stats", "tokenizers", "transforms"),
        *("deployment", "agreement", "policy_io", "sim"),
        *("models.layers", "models.flow", "models.weights", "models.pi", "models", "cli"),
    ),
    "flux_data": (
        *("progress_bars", "repairable", "video", "parquet", "lerobot", "whole_file", "run_files"),
        "modality",
        *("pictures", "samples"),
        *("validate", "convert", "repair", "record", "demo", "view", "info", "observations"),
        *("dataset_robot", "commands"),
    ),
    "flux_train": (
        *("failed_writes", "validation", "config", "policy_loss"),
        *("distributed", "metrics", "optimization", "run_plan", "loading", "state"),
        *("checkpoints", "micro_batch", "gradients", "out_of_memory", "provenance"),
        *("stop_signals", "trainer", "recipes", "report", "cli"),
    ),
    "flux_driver": (
        *(
            "library",
            "memory",
            "messages",
            "robot",
            "readings",
            "calls",
            "events",
            "gate",
            "parent",
        ),
        *("stepped", "threads", "recording", "commands", "host"),
        *("clocks", "cameras", "ros", "ur", "lerobot"),
    ),
    "flux_runtime": (
        "cuda",
        *("engines", "robots", "chunking", "wire", "realtime", "deployment", "control", "operator"),
        *("remote",),
        *("predictions", "arguments", "check", "recording"),
        *("export", "bench"),
        *("doctor", "report", "run", "replay", "serve", "cli", "evaluate"),
    ),
}


def _source(package: str) -> Path:
    distribution = INSTALLED_WITH.get(package, package.replace("_", "-"))
    return PACKAGES / distribution / "src" / package


def _modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Yields each module's path inside its package, and its syntax tree."""
    source = _source(package)
    for path in sorted(source.rglob("*.py")):
        yield path.relative_to(source).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yields the top-level name and the line of every absolute import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node.lineno


def _targets(package: str) -> Iterator[tuple[str, str, int]]:
    """Yields (importer, imported module, line) for imports within a package. Names are dotted and
    omit the package's name; an `__init__` has its folder's name ('' for the top)."""
    source = _source(package)
    for path, tree in _modules(package):
        importer = path.removesuffix(".py").removesuffix("__init__").strip("/").replace("/", ".")
        folder = path.split("/")[:-1]
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = folder[: len(folder) - node.level + 1]
            for alias in node.names:
                steps = [*base, *(node.module or "").split(".")] if node.module else base
                deeper = source.joinpath(*steps, alias.name)
                if deeper.is_dir() or deeper.with_suffix(".py").is_file():
                    steps = [*steps, alias.name]
                yield importer, ".".join(steps), node.lineno


def _room(package: str, module: str) -> str | None:
    """Returns the room of a module; None for the package's own face and `__main__`."""
    rooms = [name for name in ROOMS[package] if f"{module}.".startswith(f"{name}.")]
    return max(rooms, key=len, default=None)


@pytest.mark.parametrize("package", ROOMS)
def test_every_module_is_in_a_room(package: str) -> None:
    private = {"", "__main__", "_components", "_core"}
    modules = {path.removesuffix(".py").replace("/", ".") for path, _ in _modules(package)}
    outside = {
        name
        for name in (module.removesuffix("__init__").strip(".") for module in modules)
        if name not in private and _room(package, name) is None
    }
    assert not outside


@pytest.mark.parametrize("package", ROOMS)
def test_imports_between_rooms_point_down(package: str) -> None:
    order = {name: place for place, name in enumerate(ROOMS[package])}
    found = []
    for importer, imported, line in _targets(package):
        upper, lower = _room(package, importer), _room(package, imported)
        if upper and lower and upper != lower and order[lower] > order[upper]:
            found.append(f"{package}.{importer}:{line} imports {imported}, a room above it")
    assert not found


@pytest.mark.parametrize("package", ROOMS)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    graph: dict[str, set[str]] = {}
    for importer, imported, _ in _targets(package):
        # A face imports its room's modules; these import each other directly.
        if not imported.startswith(f"{importer}." if importer else ""):
            graph.setdefault(importer, set()).add(imported)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"{package}: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", ALLOWED)
def test_other_packages_are_imported_through_their_rooms(package: str) -> None:
    found = []
    for path, tree in _modules(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                other, *steps = node.module.split(".")
                depth = 2 if steps[:1] == ["models"] else 1
                if other in ALLOWED and other != package and len(steps) > depth:
                    found.append(f"{package}/{path}:{node.lineno} imports {node.module}")
    assert not found


@pytest.mark.parametrize("package", ALLOWED)
def test_no_folder_holds_more_modules_than_the_limit(package: str) -> None:
    folders = Counter(str(Path(path).parent) for path, _ in _modules(package))
    assert {name: count for name, count in folders.items() if count > MAX_MODULES} == {}


@pytest.mark.parametrize("package", ALLOWED)
def test_a_face_exports_what_it_lists_for_the_type_checker(package: str) -> None:
    """Both lists of a lazy face agree, and every name exists."""
    for path, tree in _modules(package):
        if not path.endswith("__init__.py") or "lazy_exports" not in ast.dump(tree):
            continue
        listed = {
            alias.asname or alias.name
            for block in tree.body
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in block.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        dotted = ".".join([package, *path.split("/")[:-1]])
        face = importlib.import_module(dotted)
        assert set(dir(face)) == listed, dotted
        for name in listed:
            found = getattr(face, name)
            assert not isinstance(found, ModuleType), f"{dotted}.{name} is hidden by a module"
        assert listed | {"__version__"} >= set(getattr(face, "__all__", ())), dotted


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_the_siblings_it_may(package: str) -> None:
    forbidden = ALLOWED.keys() - ALLOWED[package] - {package}
    found = [
        f"{package}/{path}:{line} imports {name}"
        for path, tree in _modules(package)
        for name, line in _imports(tree)
        if name in forbidden
    ]
    assert not found


@pytest.mark.parametrize("package", MAY_NEED_TORCH)
def test_torch_is_imported_only_where_it_may_be_needed(package: str) -> None:
    allowed = MAY_NEED_TORCH[package]
    found = [
        f"{package}/{path}:{line} imports torch"
        for path, tree in _modules(package)
        if not path.startswith(allowed)
        for name, line in _imports(tree)
        if name == "torch"
    ]
    assert not found


def test_siblings_are_imported_absolutely_and_neighbours_relatively() -> None:
    found = [
        f"{package}/{path}:{line} imports its own package by its full name"
        for package in ALLOWED
        for path, tree in _modules(package)
        for name, line in _imports(tree)
        if name == package and not path.endswith(("__main__.py", "_worker.py"))
    ]
    assert not found


# What the drivers of `flux_driver` import of a robot's own environment, once they connect.
OF_ROBOTS: dict[str, set[str]] = {
    "cameras": {"av", "cv2", "pyrealsense2"},
    "ros": {"PIL", "cv2", "rclpy", "rosgraph", "rospy"},
    "ur": {"rtde_control", "rtde_io", "rtde_receive"},
    "lerobot": {"lerobot"},
}
CONNECTIONS = ("ros/ros1.py", "ros/ros2.py")
"""Modules that are themselves imported only at the point of use."""


def test_the_driver_side_needs_only_an_old_python_and_numpy() -> None:
    """It runs in the interpreter of the robot's environment, where nothing else is installed."""
    found = []
    for path, tree in _modules("flux_driver"):
        ast.parse(
            (_source("flux_driver") / path).read_text(encoding="utf-8"), feature_version=(3, 8)
        )
        found += [
            f"flux_driver/{path}:{line} imports {name}"
            for name, line in _imports(tree)
            if name not in {"numpy", *OF_ROBOTS.get(path.split("/")[0], ())}
            and name not in sys.stdlib_module_names
        ]
        if path not in CONNECTIONS:
            found += [
                f"flux_driver/{path}:{line} imports {name} before it is needed"
                for name, line in _imports(ast.Module(_at_import(tree), []))
                if name != "numpy" and name not in sys.stdlib_module_names
            ]
    assert not found


def _at_import(tree: ast.Module) -> list[ast.stmt]:
    """Returns the statements that importing a module executes."""
    return [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
        and "TYPE_CHECKING" not in ast.unparse(node)[:20]
    ]


def test_importing_core_and_runtime_loads_no_torch() -> None:
    heavy = ("torch", "transformers", "onnxruntime", "mujoco", "av", "flux_data", "flux_train")
    program = (
        "import sys, flux_core, flux_runtime\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# Where transforms may be named, besides their own folder.
NAMING_TRANSFORMS = (
    *("transforms/", "_components.py", "recipes/"),
    *("config/compat.py", "config/old_paths.py"),
)


def _transforms() -> dict[str, str]:
    """Returns our transforms (dataclasses derived from `Transform`) and their folders."""
    found: dict[str, tuple[str, list[str], bool]] = {}
    for package in ALLOWED:
        for path, tree in _modules(package):
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                    folder = f"{package}/{Path(path).parent.as_posix()}"
                    found[node.name] = (folder, bases, bool(node.decorator_list))

    def is_transform(name: str) -> bool:
        return name == "Transform" or any(map(is_transform, found.get(name, ("", [], False))[1]))

    return {
        name: folder
        for name, (folder, _, is_dataclass) in found.items()
        if is_dataclass and is_transform(name)
    }


def test_transforms_are_named_only_where_they_live_and_where_configs_are_written() -> None:
    """Other code asks a `Pipeline` for roles, so that a new transform needs only new files."""
    transforms = _transforms()
    assert {"AlohaToPi", "RelativeActions", "ProcessParquetInputs"} <= transforms.keys()
    found = []
    for package in ALLOWED:
        for path, tree in _modules(package):
            folder = f"{package}/{Path(path).parent.as_posix()}"
            if path.startswith(NAMING_TRANSFORMS):
                continue
            found += [
                f"{package}/{path}: {name}"
                for name in _names(tree)
                if transforms.get(name, folder) != folder
            ]
    assert found == []


def _names(tree: ast.Module) -> Iterator[str]:
    """Yields every name, and every text, in a module."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "value"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


# Where networks may be named, besides their own folder.
NAMING_NETWORKS = ("_components.py", "recipes/", "config/compat.py", "config/old_paths.py")


def test_networks_are_named_only_where_they_live_and_where_configs_are_written() -> None:
    """Other code knows a `FlowPolicy`, so that a new network needs only new files."""
    homes = {
        target.partition(":")[2]: target.partition(":")[0].split(".")[2]
        for target in NETWORKS.values()
    }
    rooms = {f"flux_core.models.{folder}" for folder in homes.values()}
    found = []
    for package in ALLOWED:
        for path, tree in _modules(package):
            if path.startswith(NAMING_NETWORKS):
                continue
            for name in _names(tree):
                if name in homes and not path.startswith(f"models/{homes[name]}/"):
                    found.append(f"{package}/{path}: {name}")
            found += [
                f"{package}/{path} imports {node.module}"
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module in rooms
            ]
    assert found == []


def test_pybind11_stays_in_the_bindings() -> None:
    cpp = ROOT / "cpp"
    found = [
        str(path.relative_to(ROOT))
        for path in cpp.rglob("*")
        if path.suffix in {".cpp", ".hpp", ".h", ".cu"}
        and "bindings" not in path.relative_to(cpp).parts
        and "pybind11" in path.read_text(encoding="utf-8")
    ]
    assert not found


def test_no_source_file_is_longer_than_the_limit(tracked_files: list[Path]) -> None:
    sources = [path for path in tracked_files if path.suffix in {".py", ".cpp", ".hpp", ".h"}]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_no_module_is_called_utils_or_helpers() -> None:
    names = {"utils.py", "helpers.py", "util.py", "misc.py", "common.py"}
    assert [path for path in PACKAGES.rglob("*.py") if path.name in names] == []
