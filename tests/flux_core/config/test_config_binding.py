"""Binding a plain tree to frozen dataclasses, and writing it back."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core.config import (
    bind,
    compat,
    component,
    config_class,
    register_components,
    registry,
    type_name,
    unbind,
)
from flux_core.deployment import InferenceRunner
from flux_core.errors import ConfigError, FluxError, MissingDependencyError


class Linear:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        in_dim: int
        out_dim: int = 4

        def __post_init__(self) -> None:
            if self.in_dim < 1:
                raise ValueError(f"in_dim: expected at least 1, got {self.in_dim}")

        def build(self) -> Linear:
            return Linear(self)

    def __init__(self, config: Config) -> None:
        self.config = config


class Gated(Linear):
    @dataclass(frozen=True, kw_only=True)
    class Config(Linear.Config):
        gate: Literal["relu", "gelu"] = "gelu"


class Transform(Protocol):
    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Resize:
    height: int
    width: int

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample


@dataclass(frozen=True, kw_only=True)
class Rename:
    keys: Mapping[str, tuple[str, ...]]

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample


@dataclass(frozen=True, kw_only=True)
class Limits:
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise FluxError(f"low {self.low} is above high {self.high}")


@dataclass(frozen=True, kw_only=True)
class Runner:
    max_epochs: int | None = None
    learning_rate: float = 1e-4
    name: str = "run"
    resume: bool = False
    strategy: Literal["no-shard", "full-shard"] = "no-shard"
    roots: str | tuple[str, ...] = ()
    pair: tuple[int, str] = (0, "")
    limits: Limits = Limits()
    more_limits: Mapping[str, Limits] = field(default_factory=dict)
    projector: Linear.Config | None = None
    either: Resize | Rename | None = None
    transforms: list[Transform] = ()  # type: ignore[assignment]
    anything: Any = None
    folder: Path = Path()


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {})
    compat._warn_once.cache_clear()
    classes = (Linear, Gated, Resize, Rename, Runner)
    register_components({cls.__name__: cls for cls in classes})
    yield


def test_a_dict_and_a_config_instance_are_the_same_node() -> None:
    written = {"type": "Linear", "in_dim": 14, "out_dim": 1024}
    assert bind(Linear.Config, written) == Linear.Config(in_dim=14, out_dim=1024)
    assert bind(Linear, written) == bind(Linear, Linear.Config(in_dim=14, out_dim=1024))
    tree = {"projector": Linear.Config(in_dim=1), "transforms": [Resize(height=1, width=2)]}
    bound = bind(Runner, tree)
    assert bound.projector == Linear.Config(in_dim=1)
    assert bound.transforms == (Resize(height=1, width=2),)
    assert bound.projector.build().config.out_dim == 4


def test_a_dict_without_type_binds_to_the_declared_dataclass() -> None:
    bound = bind(Runner, {"limits": {"low": -1}, "more_limits": {"a": {"high": 2}}})
    assert bound.limits == Limits(low=-1.0)
    assert bound.more_limits == {"a": Limits(high=2.0)}


def test_a_field_typed_by_a_base_class_takes_any_component_below_it() -> None:
    gated = {"type": "Gated", "in_dim": 2, "gate": "relu"}
    assert bind(Runner, {"projector": gated}).projector == Gated.Config(in_dim=2, gate="relu")
    with pytest.raises(ConfigError, match=r"^runner.projector: expected Linear or None, got type"):
        bind(Runner, {"projector": {"type": "Resize", "height": 1, "width": 1}}, "runner")


def test_values_are_bound_to_the_declared_types() -> None:
    tree = {"learning_rate": 1, "roots": ["a", "b"], "pair": [1, "x"], "folder": "/data"}
    bound = bind(Runner, tree)
    assert type(bound.learning_rate) is float
    assert bound.roots == ("a", "b")
    assert bound.pair == (1, "x")
    assert bound.folder == Path("/data")
    assert bind(Runner, {"roots": "a"}).roots == "a"


def test_a_component_inside_anything_is_bound_too() -> None:
    tree = {"anything": {"parts": [{"type": "Resize", "height": 1, "width": 2}], "x": 1}}
    assert bind(Runner, tree).anything == {"parts": (Resize(height=1, width=2),), "x": 1}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"max_epoch": 5},
            "runner.max_epoch: Runner has no field 'max_epoch'. Did you mean 'max_epochs'?",
        ),
        ({"max_epochs": "fifty"}, "runner.max_epochs: expected int or None, got 'fifty'"),
        (
            {"learning_rate": "1e-4"},
            "runner.learning_rate: expected float, got '1e-4'. Write it without quotes: 1e-4",
        ),
        ({"learning_rate": True}, "runner.learning_rate: expected float, got True"),
        ({"max_epochs": True}, "runner.max_epochs: expected int or None, got True"),
        ({"max_epochs": 1.5}, "runner.max_epochs: expected int or None, got 1.5"),
        ({"name": 3}, "runner.name: expected str, got 3"),
        ({"resume": 1}, "runner.resume: expected bool, got 1"),
        (
            {"strategy": "shard"},
            "runner.strategy: expected 'no-shard' or 'full-shard', got 'shard'",
        ),
        ({"roots": ["a", 1]}, "runner.roots.1: expected str, got 1"),
        ({"roots": 1}, "runner.roots: expected str or a list of str, got 1"),
        ({"pair": [1]}, "runner.pair: expected 2 values, got 1"),
        ({"limits": 3}, "runner.limits: expected Limits, got 3"),
        ({"limits": {"low": 2}}, "runner.limits: low 2.0 is above high 1.0"),
        ({"projector": {"type": "Linear"}}, "runner.projector.in_dim: Linear needs 'in_dim' (int)"),
        ({"projector": {"in_dim": 0}}, "runner.projector.in_dim: expected at least 1, got 0"),
        (
            {"either": {"height": 1}},
            "runner.either.type: missing; expected Resize or Rename or None",
        ),
        (
            {"transforms": [{"type": "Rezise"}]},
            ("runner.transforms.0.type: no component is called 'Rezise'. Did you mean 'Resize'? "
            "A class of your own is written 'my_package.my_module:MyClass'."),
        ),
        ({"transforms": [{"height": 1}]}, ("runner.transforms.0: expected Transform, got a dict "
         "without 'type'")),
        ({"more_limits": {1: {}}}, "runner.more_limits: expected text, got 1"),
        ({"projector": {"type": 3}}, "runner.projector.type: expected text, got 3"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_in_one_line(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind(Runner, tree, "runner")
    assert str(caught.value) == message


@dataclass(frozen=True, kw_only=True)
class Group:
    """Every form of a field that may be one thing or several."""

    parts: (
        Linear.Config | tuple[Linear.Config, ...] | Mapping[str, tuple[Linear.Config, ...]] | None
    ) = None
    by_name: Gated.Config | Mapping[str, Gated.Config] | None = None
    deep: Mapping[str, Mapping[str, Limits | tuple[Limits, ...]]] = field(default_factory=dict)
    paths: str | tuple[str, ...] = ()
    sizes: tuple[tuple[int, float] | None, ...] | int = 0


LINEAR = {"type": "Linear", "in_dim": 1}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        # One component: no group is called 'type'.
        ({"parts": {**LINEAR, "in_dm": 1}}, "g.parts.in_dm: Linear has no field 'in_dm'."),
        ({"parts": {"transforms": [LINEAR], **LINEAR}}, "g.parts.transforms: Linear has no field"),
        ({"parts": {"type": "Resize"}}, "g.parts: expected Linear or a list of Linear or a dict"),
        ({"parts": {"type": "Linaer"}}, "g.parts.type: no component is called 'Linaer'. Did you"),
        # One component whose type is not written, or is misspelt.
        ({"parts": {"in_dim": 1, "out": 2}}, "g.parts.out: Linear has no field 'out'."),
        ({"parts": {"tpye": "Linear", "in_dim": 1}}, "g.parts.tpye: Linear has no field 'tpye'. "
         "Did you mean 'type'?"),
        # Groups: their names are not fields, and the mistake is inside one of them.
        ({"parts": {"a": [LINEAR], "b": [LINEAR, {"in_dim": "x"}]}},
         "g.parts.b.1.in_dim: expected int, got 'x'"),
        ({"parts": {"a": [{"type": "Linaer"}]}}, "g.parts.a.0.type: no component is called"),
        ({"parts": {"a": [LINEAR], "b": LINEAR}}, "g.parts.b: expected a list of Linear, got type"),
        ({"parts": {"a": [{"type": "Linear"}]}}, "g.parts.a.0.in_dim: Linear needs 'in_dim' (int)"),
        ({"parts": {"a": [LINEAR], "in_dim": 1}}, "g.parts.in_dim: expected a list of Linear"),
        ({"parts": [LINEAR, {**LINEAR, "in_dim": None}]}, "g.parts.1.in_dim: expected int, got N"),
        ({"parts": [LINEAR, 3]}, "g.parts.1: expected Linear, got 3"),
        ({"by_name": {"arm": {"type": "Gated", "in_dim": 1, "gate": "tanh"}}},
         "g.by_name.arm.gate: expected 'relu' or 'gelu', got 'tanh'"),
        ({"by_name": {"arm": {"type": "Gated"}, "leg": 3}}, "g.by_name.arm.in_dim: Gated needs"),
        ({"by_name": {"gate": "relu"}}, "g.by_name.in_dim: Gated needs 'in_dim' (int)"),
        ({"deep": {"a": {"b": [{"low": 0}, {"hihg": 1}]}}},
         "g.deep.a.b.1.hihg: Limits has no field 'hihg'. Did you mean 'high'?"),
        ({"deep": {"a": {"b": {"low": "x"}}}}, "g.deep.a.b.low: expected float, got 'x'"),
        ({"deep": {"a": 1}}, "g.deep.a: expected a dict of Limits or a list of Limits, got 1"),
        ({"sizes": [[1, 2], None, [1, "x"]]}, "g.sizes.2.1: expected float, got 'x'"),
        ({"sizes": [[1]]}, "g.sizes.0: expected 2 values, got 1"),
        ({"paths": ["a", ["b"]]}, "g.paths.1: expected str, got ['b']"),
        # Text that spells a value of the expected type.
        ({"paths": "['a','b']"}, "g.paths: expected str or a list of str, got \"['a','b']\". Write "
         "it without quotes: ['a','b']"),
        ({"paths": '["a"]'}, "g.paths: expected str or a list of str, got '[\"a\"]'. Write it wit"),
        ({"sizes": "7"}, "g.sizes: expected a list of a list of int or None or int, got '7'. Wri"),
        ({"deep": "{'a': {}}"}, "g.deep: expected a dict of a dict of Limits or a list of Limits, "
         "got \"{'a': {}}\". Write it without quotes: {'a': {}}"),
        ({"deep": "{1: a}"}, "g.deep: expected a dict of a dict of Limits or a list of Limits, got "
         "'{1: a}'. Inside the brackets, put each text and key in quotes"),
        ({"parts": [{"type": "Linear", "in_dim": "1"}]},
         "g.parts.0.in_dim: expected int, got '1'. Write it without quotes: 1"),
    ],
)  # fmt: skip
def test_the_error_of_a_union_is_that_of_the_member_the_value_resembles(
    tree: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        bind(Group, tree, "g")
    assert str(caught.value).startswith(message)


def test_quotes_that_spell_another_type_are_left_alone() -> None:
    tree = {"name": "['a']", "roots": "7", "resume": False}
    assert bind(Runner, tree).name == "['a']"
    assert bind(Runner, tree).roots == "7"
    with pytest.raises(ConfigError, match=r"resume: expected bool, got 'true'. Write it without"):
        bind(Runner, {"resume": "true"})


def test_a_field_of_an_unsupported_type_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="cannot be of type"):
        bind(st.SearchStrategy[int], 3, "model")


def test_a_users_class_is_named_by_its_path() -> None:
    assert component("pathlib:PurePath").__name__ == "PurePath"
    path = f"{__name__}:Limits"
    assert type_name(Limits) == path
    assert config_class(component(path)) is Limits
    with pytest.raises(MissingDependencyError, match="needs the module 'no_such_package'"):
        component("no_such_package.parts:X", "model")
    with pytest.raises(ConfigError, match="model.type: 'json:Nothing' cannot be found"):
        component("json:Nothing", "model")
    with pytest.raises(ConfigError, match="to be a class"):
        component("json:dumps")


def test_names_round_trip() -> None:
    for cls in (Linear, Gated, Resize, Rename, Runner, Limits):
        config = config_class(cls)
        assert config_class(component(type_name(config))) is config
    register_components({"Alias": f"{__name__}:Limits"})
    assert type_name(Limits) == "Alias"
    assert component("Alias") is Limits


def test_every_installed_name_has_a_module_and_a_class() -> None:
    for name, registrations in registry.installed().items():
        for each in registrations:
            module, _, attribute = each.target.partition(":")
            assert name.isidentifier() and module and attribute


def test_a_class_without_its_own_config_is_not_a_component() -> None:
    class Inherits(Linear):
        pass

    with pytest.raises(ConfigError, match="Inherits: expected a dataclass"):
        config_class(Inherits)


def test_a_registered_name_is_written_and_an_implied_one_is_not() -> None:
    plain = unbind(Runner(projector=Gated.Config(in_dim=2), either=Resize(height=1, width=2)))
    assert plain["type"] == "Runner"
    assert plain["projector"] == {"type": "Gated", "in_dim": 2, "out_dim": 4, "gate": "gelu"}
    assert plain["limits"] == {"low": 0.0, "high": 1.0}


def _configs() -> st.SearchStrategy[Runner]:
    names = st.text(max_size=5)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    limits = st.builds(Limits, low=st.floats(-9, 0), high=st.floats(1, 9))
    resize = st.builds(Resize, height=st.integers(), width=st.integers())
    rename = st.builds(
        Rename, keys=st.dictionaries(names, st.lists(names, max_size=2).map(tuple), max_size=2)
    )
    linear = st.builds(Linear.Config, in_dim=st.integers(1, 9))
    gated = st.builds(
        Gated.Config, in_dim=st.integers(1, 9), gate=st.sampled_from(["relu", "gelu"])
    )
    transforms = st.lists(resize | rename, max_size=3).map(tuple)
    leaves = st.none() | st.booleans() | st.integers() | floats | names | resize | limits
    return st.builds(
        Runner,
        max_epochs=st.none() | st.integers(),
        learning_rate=floats,
        name=names,
        resume=st.booleans(),
        strategy=st.sampled_from(["no-shard", "full-shard"]),
        roots=names | st.lists(names, max_size=3).map(tuple),
        pair=st.tuples(st.integers(), names),
        limits=limits,
        more_limits=st.dictionaries(names, limits, max_size=2),
        projector=st.none() | linear | gated,
        either=st.none() | resize | rename,
        transforms=transforms,
        anything=leaves | st.lists(leaves, max_size=2).map(tuple),
        folder=names.filter(lambda name: "\0" not in name).map(Path),
    )


@given(_configs())
def test_binding_what_was_unbound_gives_the_same_config(config: Runner) -> None:
    plain = unbind(config)
    assert bind(Runner, plain) == config
    assert bind(object, json.loads(json.dumps(plain))) == config


@dataclass(frozen=True, kw_only=True)
class NormalizeStatesAndActions:
    norm_type: Literal["mean_std", "quantile"] = "mean_std"


def test_published_gemma_sections_lose_the_keys_without_effect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    section = {"use_cache": True, "bos_token_id": 2, "torch_dtype": "float32", "width": 64}
    found = compat.translate(section, ["ConditionGemmaModel"], ["width"], "model.llm_expert")
    assert found == ({"width": 64}, {})
    assert caplog.messages == [
        "model.llm_expert: ignored 'bos_token_id', 'use_cache': "
        "a Hugging Face setting that does not affect the network",
        "model.llm_expert: ignored 'torch_dtype': "
        "weights are fp32, and autocast picks the compute type",
    ]


@dataclass(frozen=True, kw_only=True)
class Loader:
    per_device_batch_size: int | None = None


def test_a_renamed_key_is_translated_and_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "flux.config")
    for _ in range(2):
        bound = bind(NormalizeStatesAndActions, {"use_quantiles": True}, "dataset.transforms.2")
        assert bound.norm_type == "quantile"
    assert caplog.messages == [
        "dataset.transforms.2: 'use_quantiles' is now 'norm_type'; read as norm_type='quantile'"
    ]


def test_the_new_key_wins_over_the_old_one(caplog: pytest.LogCaptureFixture) -> None:
    tree = {"use_quantiles": False, "norm_type": "quantile"}
    assert bind(NormalizeStatesAndActions, tree, "x").norm_type == "quantile"
    assert "'use_quantiles' is ignored because 'norm_type' is given too" in caplog.text


def test_the_global_batch_size_is_ignored_only_if_the_one_per_device_is_given(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tree = {"batch_size": 128, "per_device_batch_size": 8}
    assert bind(Loader, tree, "train_dataloader") == Loader(per_device_batch_size=8)
    assert "ignored 'batch_size': per_device_batch_size decides" in caplog.text
    with pytest.raises(ConfigError, match="Loader has no field 'batch_size'"):
        bind(Loader, {"batch_size": 128}, "train_dataloader")


def test_a_dead_key_of_a_component_is_dead_in_those_derived_from_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compat.COMPAT, "Linear", {"torch_dtype": compat.Dead("we know better")})
    assert bind(Gated, {"in_dim": 1, "torch_dtype": "float32"}, "p") == Gated.Config(in_dim=1)
    assert caplog.messages == ["p: ignored 'torch_dtype': we know better"]


OLD_RUNNER = {
    "type": "AlohaSimInferenceRunner",
    "task_descriptions": {"1": "transfer the cube"},
    "dataset": {
        "type": "PrivateInferenceDataset",
        "img_keys": ["cam_high"],
        "transforms": [{"type": "PrivatePrompter", "add_new_line": False}],
    },
    "denormalize_action": {"type": "DenormalizePrivateAction", "norm_type": "quantile"},
    "execute_horizon": 16,
}


def test_old_spellings_are_read_silently_and_written_in_the_current_form(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = bind(InferenceRunner, OLD_RUNNER, "inference")
    written = unbind(runner)
    assert written["execution_horizon"] == 16 and "execute_horizon" not in written
    assert written["dataset"]["type"] == "ObservationTransforms"
    assert written["dataset"]["transforms"] == [
        {"type": "TaskPrompter", "use_conversation": False, "add_new_line": False}
    ]
    assert written["denormalize_action"]["type"] == "DenormalizeActions"
    assert bind(InferenceRunner, written, "inference") == runner
    assert caplog.messages == []


def test_old_sample_keys_are_read_as_the_current_ones(caplog: pytest.LogCaptureFixture) -> None:
    tree = {"type": "DictCollator", "keys": ["images", "img_masks"], "meta_keys": ("img_masks",)}
    collator = unbind(bind(object, tree, "runner.collator"))
    assert collator["keys"] == ["images", "image_masks"]
    assert collator["meta_keys"] == ["image_masks"]
    assert caplog.messages == []


def test_every_old_type_maps_to_a_component_and_is_not_one_itself() -> None:
    names = registry.installed()
    assert set(compat.TYPE_NAMES.values()) <= names.keys()
    assert not compat.TYPE_NAMES.keys() & names.keys()


def test_the_table_names_every_inference_runner() -> None:
    """Overrides identify a section by its `type`, without importing its class."""
    runners = [
        name
        for name in registry.installed()
        if name.endswith("InferenceRunner") and issubclass(component(name), InferenceRunner)
    ]
    assert len(runners) > 3
    assert all("execute_horizon" in compat.COMPAT[name] for name in runners)
