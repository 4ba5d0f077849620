"""One mistake planted anywhere in a config is reported with its full dotted path.

Each test walks a config's tree beside the config it binds to, plants one mistake at a time at every
node, and expects the error to begin with the place of the mistake. A node that looks like one that
was tried before (the same classes and fields around it, in another group or at another index) is
not tried again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any

import pytest

from flux_core.config import load_config
from flux_core.errors import ConfigError
from flux_train.config.tree import bind_train_config

from .fluxvla_files import GEMMA, SIGLIP, fluxvla_file
from .test_shipped_configs import CONFIGS, ROOT

Place = tuple[str | int, ...]
FLUXVLA = (
    "pi0/pi0_paligemma_aloha+ur_full_train",
    "pi0/pi0_paligemma_ur3_full_train",
    "pi05/pi05_paligemma_libero_10_lora_finetune",
)
TREES: dict[str, Any] = {
    path.relative_to(ROOT / "configs").as_posix(): path for path in CONFIGS
} | {f"FluxVLA's {name}": name for name in FLUXVLA}


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A change of a tree, and the place that the error must name."""

    kind: str
    place: Place
    value: object = None
    is_removed: bool = False

    def into(self, tree: dict[str, Any]) -> None:
        *parents, last = self.place
        node: Any = tree
        for part in parents:
            node = node[part]
        if self.is_removed:
            del node[last]
        else:
            node[last] = self.value

    @property
    def path(self) -> str:
        return ".".join(map(str, self.place))


def plants(tree: Any, bound: Any, place: Place = ()) -> Iterator[Plant]:
    """Yields every mistake that can be made in a tree, given the config that it binds to."""
    if isinstance(tree, Mapping) and is_dataclass(bound):
        yield Plant(kind="unknown key", place=(*place, "no_such_key"), value=1)
        if "type" in tree:
            yield Plant(kind="unknown type", place=(*place, "type"), value="NoSuchComponent")
        for field in fields(bound):
            if field.name in tree:
                if is_required(field):
                    yield Plant(kind="missing", place=(*place, field.name), is_removed=True)
                yield from plants(
                    tree[field.name], getattr(bound, field.name), (*place, field.name)
                )
    elif isinstance(tree, Mapping) and isinstance(bound, Mapping):
        for key, value in tree.items():
            yield from plants(value, bound[key], (*place, key))
    elif isinstance(tree, list | tuple) and isinstance(bound, list | tuple):
        for index, (value, item) in enumerate(zip(tree, bound, strict=True)):
            yield from plants(value, item, (*place, index))
    elif isinstance(tree, bool | int | float | str):
        # No field takes both a text and a number.
        wrong = 3.5 if isinstance(tree, str) else "wrong"
        yield Plant(kind="wrong type", place=place, value=wrong)


def is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def shape(plant: Plant, tree: Any) -> tuple[object, ...]:
    """The classes and fields on the way to a plant, but not the keys of groups or the indices."""
    node: Any = tree
    found: list[str] = [plant.kind]
    for part in plant.place:
        is_section = isinstance(node, Mapping)
        named = is_section and node.get("type")
        is_group = isinstance(part, int) or (is_section and not named and found[-1] in GROUPS)
        found.append("*" if is_group else f"{named or ''}.{part}")
        node = node[part] if not isinstance(node, Mapping) or part in node else None
    return tuple(found)


GROUPS = ("DistributedRepeatingDataset.datasets", ".inference", ".task_descriptions")
_tried: set[tuple[object, ...]] = set()


def read(name: str) -> dict[str, Any]:
    source = TREES[name]
    if isinstance(source, str):
        return fluxvla_file(source, "tutorial")
    tree = load_config(source)
    held_out = copy.deepcopy(tree["train_dataloader"]["dataset"])
    return tree | {"validation": {"dataset": held_out, "interval_steps": 10}}


@pytest.mark.parametrize("name", TREES)
def test_a_mistake_is_reported_with_its_full_path(name: str) -> None:
    tree = read(name)
    bound = bind_train_config(tree)
    missed: list[str] = []
    for plant in plants(tree, bound):
        look = shape(plant, tree)
        if look in _tried:
            continue
        _tried.add(look)
        changed = copy.deepcopy(tree)
        plant.into(changed)
        if not (message := error_of(changed)).startswith(f"{plant.path}: "):
            missed.append(f"{plant.kind} at {plant.path}: {message}")
    assert not missed, "\n".join(missed)


def error_of(tree: dict[str, Any]) -> str:
    tree.pop("inference_model", None)
    try:
        bind_train_config(tree)
    except ConfigError as error:
        return str(error)
    return "no error"


LAYERS = {key: value for key, value in GEMMA.items() if key not in ("type", "adarms_cond_dim")}


def set_at(tree: Any, path: str, value: object) -> None:
    place = tuple(int(part) if part.isdecimal() else part for part in path.split("."))
    Plant(kind="", place=place, value=value).into(tree)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "train_dataloader.dataset.datasets.ur3.0.transforms.6.height",
            100,
            "train_dataloader.dataset.datasets.ur3.0.transforms.6: ResizeImagesWithPad gives (100,",
        ),
        (
            "train_dataloader.dataset.datasets.ur3.0.action_window_size",
            16,
            "model.n_action_steps: expected 16 (train_dataloader.dataset.datasets.ur3.0."
            "action_window_size), got 32",
        ),
        (
            "train_dataloader.dataset.datasets.ur3.0.transforms",
            [],
            "train_dataloader.dataset.datasets.ur3.0.transforms",
        ),
        (
            "validation.dataset.datasets.ur3.0.window_start_idx",
            3,
            "validation.dataset.datasets.ur3.0.window_start_idx: expected the same as in training,",
        ),
    ],
)
def test_a_contradiction_in_a_group_is_reported_with_its_full_path(
    path: str, value: object, message: str
) -> None:
    tree = read("pi05/pi05_paligemma_aloha+ur_full_train.py")
    if not path.startswith("validation"):
        del tree["validation"]
    set_at(tree, path, value)
    assert error_of(tree).startswith(message)


PALIGEMMA: dict[str, Any] = {
    "vlm_backbone": {
        "type": "PaliGemma",
        "vlm_backbone_id": "paligemma_3b_pt_224",
        "vlm_config": {
            "hidden_size": 2048,
            "vision_config": SIGLIP,
            "text_config": LAYERS | {"hidden_size": 2048, "intermediate_size": 16384},
        },
    },
    "llm_expert": {
        "type": "GemmaLLMBackbone",
        "llm_config": LAYERS | {"hidden_size": 1024, "intermediate_size": 4096},
    },
}


def older_spelling() -> dict[str, Any]:
    """A file of FluxVLA's whose network is written as in its first version."""
    tree = fluxvla_file("pi0/pi0_paligemma_aloha_full_train", "tutorial")
    for part in ("vision_backbone", "projector", "llm_backbone"):
        del tree["model"][part]
    tree["model"] |= copy.deepcopy(PALIGEMMA)
    tree["model"] |= {"ori_action_dim": 14, "num_steps": 10}
    tree["runner"]["optimizer"] = {"type": "AdamW", "lr": 2e-5, "betas": [0.9, 0.95]}
    del tree["runner"]["learning_rate"], tree["runner"]["weight_decay"]
    tree["inference"]["execute_horizon"] = 16
    steps = tree["train_dataloader"]["dataset"]["datasets"][0]["transforms"]
    steps[-1] |= {"use_quantiles": False}
    del steps[-1]["norm_type"]
    return tree


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.vlm_backbone.type", "EagleBackbone"),
        ("model.vlm_backbone.no_such_key", 1),
        ("model.vlm_backbone.vlm_config", 3),
        ("model.vlm_backbone.vlm_config.no_such_key", 1),
        ("model.vlm_backbone.vlm_config.vision_config", "siglip"),
        ("model.vlm_backbone.vlm_config.vision_config.no_such_key", 1),
        ("model.vlm_backbone.vlm_config.vision_config.hidden_size", "wide"),
        ("model.vlm_backbone.vlm_config.text_config.no_such_key", 1),
        ("model.vlm_backbone.vlm_config.text_config.num_attention_heads", 8.5),
        ("model.vlm_backbone.vlm_config.text_config.attention_bias", True),
        ("model.llm_expert.llm_config.no_such_key", 1),
        ("model.llm_expert.llm_config.intermediate_size", "wide"),
        ("model.llm_expert.llm_config", []),
        ("model.ori_action_dim", "all"),
        ("model.num_steps", "ten"),
        ("model.time_sampler", "uniform"),
        ("runner.optimizer", "AdamW"),
        ("runner.optimizer.type", "SGD"),
        ("runner.optimizer.no_such_key", 1),
        ("runner.optimizer.lr", "small"),
        ("runner.optimizer.lr", -1.0),
        ("runner.optimizer.betas", [0.9]),
        ("inference.execute_horizon", "all"),
        ("inference.dataset.transforms.4.norm_type", "propio"),
        ("train_dataloader.dataset.datasets.0.transforms.5.use_quantiles", "no"),
        ("train_dataloader.dataset.datasets.0.use_delta", True),
        ("custom_imports", {"imports": ["my_transforms"]}),
        ("val_dataloader", {"dataset": {}}),
        ("load_from", "checkpoint.pth"),
        ("resume", True),
        ("work_dir", "work_dirs/mine"),
    ],
)
def test_a_mistake_in_an_older_spelling_is_reported_where_it_is_written(
    path: str, value: object
) -> None:
    tree = older_spelling()
    assert error_of(copy.deepcopy(tree)) == "no error"
    set_at(tree, path, value)
    assert error_of(tree).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["runner.max_epochs=50", "runner.max_steps=4"],
            "runner.max_epochs: expected exactly one of max_epochs and max_steps, got 50 and 4. "
            "To train by epochs, add runner.max_steps=none; by steps, runner.max_epochs=none",
        ),
        (
            ["runner.max_epochs=none", "runner.max_steps=NONE"],
            "runner.max_epochs: expected exactly one of max_epochs and max_steps, got None and "
            "None. Set one of them",
        ),
        (["runner.max-epochs=50"], "runner.max-epochs: SingleTrainRunner has no field 'max-epochs'."
         " Did you mean 'max_epochs'?"),
        (["runner.max_epochs='50'"], "runner.max_epochs: expected int or None, got '50'. Write it "
         "without quotes: 50"),
        (["runner.compile='true'"], "runner.compile: expected bool, got 'true'. Write it without "
         "quotes: true"),
        (["model.pretrained_name_or_path=['a','b']"], "model.pretrained_name_or_path: expected "
         "str or None, got ['a', 'b']"),
        (["runner.collator='{}'"], "runner.collator.keys: DictCollator needs 'keys'"),
        (["runner.no_such=1"], "runner.no_such: SingleTrainRunner has no field"),
    ],
)  # fmt: skip
def test_an_override_that_does_not_fit_says_what_does(options: list[str], message: str) -> None:
    path = ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py"
    assert error_of(load_config(path, options)).startswith(message)


@pytest.mark.parametrize("value", ["['a','b']", "\"['a', 'b']\"", "[a, b]", "a,b", '["a","b"]'])
def test_several_paths_are_read_however_they_are_quoted(value: str) -> None:
    path = ROOT / "configs" / "pi05" / "pi05_paligemma_aloha_full_train.py"
    key = "train_dataloader.dataset.datasets.aloha.0.data_root_path"
    bound = bind_train_config(load_config(path, [f"{key}={value}"]))
    ((dataset,),) = bound.train_dataloader.dataset.groups().values()
    if value == "a,b":
        assert dataset.roots == ("a,b",), "a path may have a comma"
    else:
        assert dataset.roots == ("a", "b")


def test_another_way_of_registering_classes_is_named() -> None:
    tree = older_spelling() | {"custom_imports": {"imports": ["my_transforms"]}}
    assert error_of(tree) == (
        "custom_imports: is not supported. Name each class by its path instead, "
        "type='my_module:MyClass', with my_module.py beside the config or in the current "
        "directory; or install it with an entry point of flux.components."
    )
    assert error_of(older_spelling() | {"custom_imports": None}) == "no error"
