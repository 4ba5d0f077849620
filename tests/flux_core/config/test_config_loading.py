"""Reading config files and writing overrides into them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flux_core.config import apply_overrides, load_config, read_overrides, with_settings
from flux_core.errors import ConfigError

TUTORIAL = """
from __future__ import annotations
import math
from pathlib import Path
_hidden = object()

def helper(dim):
    return dict(type='LinearProjector', in_dim=dim, out_dim=1024)

model = dict(type='PI0FlowMatching', state_proj=helper(14), sizes=(1, 2), root=Path('/data'))
inference_model = model.copy()
runner = dict(type='FSDPTrainRunner', max_epochs=24, learning_rate=5e-5)
train_dataloader = dict(dataset=dict(datasets=[dict(data_root_path='/path/to/data')]))
seed = 7
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.py"
    path.write_text(TUTORIAL)
    return path


def test_a_python_config_becomes_plain_data(config: Path) -> None:
    tree = load_config(config)
    sections = ["model", "inference_model", "runner", "train_dataloader", "seed"]
    assert list(tree) == sections
    assert tree["model"]["sizes"] == [1, 2]
    assert tree["model"]["root"] == "/data"
    assert json.loads(json.dumps(tree)) == tree


def test_a_resolved_json_loads_as_the_same_tree(config: Path) -> None:
    tree = load_config(config, ["runner.max_epochs=50"])
    resolved = config.with_suffix(".json")
    resolved.write_text(json.dumps(tree))
    assert load_config(resolved) == tree
    assert tree["runner"]["max_epochs"] == 50


def test_a_config_instance_in_a_file_becomes_its_dict(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(
        "from flux_core.config.compat import Dead\nrule = Dead(reason='x')\nrules = [rule]\n"
    )
    plain = {"type": "flux_core.config.compat:Dead", "reason": "x", "beside": None, "only": None}
    assert load_config(path) == {"rule": plain, "rules": [plain]}


def test_overrides_of_the_model_reach_its_copy(config: Path) -> None:
    tree = load_config(config, ["model.state_proj.in_dim=7", "model.n_action_steps=50"])
    assert tree["inference_model"] == tree["model"]
    assert tree["model"]["state_proj"]["in_dim"] == 7
    tree = load_config(config, ["model.sizes=[3]", "inference_model.sizes=[4]"])
    assert tree["model"]["sizes"] == [3]
    assert tree["inference_model"]["sizes"] == [4]


def test_overrides_do_not_change_the_given_tree() -> None:
    tree = {"runner": {"steps": [1, 2]}}
    assert apply_overrides(tree, ["runner.steps.1=9"]) == {"runner": {"steps": [1, 9]}}
    assert tree == {"runner": {"steps": [1, 2]}}


def test_an_override_can_set_a_key_in_an_omitted_section(config: Path) -> None:
    tree = load_config(config, ["runner.metric.active_trackers=['jsonl']"])
    assert tree["runner"]["metric"] == {"active_trackers": ["jsonl"]}
    with pytest.raises(ConfigError, match=r"the config has no 'metric'"):
        load_config(config, ["metric.active_trackers=[]"])


def test_an_override_can_set_a_key_in_a_section_that_is_none() -> None:
    tree = {"model": {"rtc_training_config": None}, "validation": None}
    delays = apply_overrides(tree, ["model.rtc_training_config.max_delay=17"])
    assert delays["model"] == {"rtc_training_config": {"max_delay": 17}}
    assert tree["model"] == {"rtc_training_config": None}
    with pytest.raises(ConfigError, match=r"validation is None, which has no keys to set"):
        apply_overrides(tree, ["validation.num_batches=2"])


def test_an_override_reaches_into_lists(config: Path) -> None:
    key = "train_dataloader.dataset.datasets.0.data_root_path"
    tree = load_config(config, [f"{key}=/x"])
    assert tree["train_dataloader"]["dataset"]["datasets"][0]["data_root_path"] == "/x"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50", 50),
        ("1e-5", 1e-5),
        ("-1", -1),
        ("True", True),
        ("false", False),
        ("null", None),
        ("None", None),
        ("'1'", "1"),
        ("[1, 2]", [1, 2]),
        ("1,2", [1, 2]),
        ("{'a': (1,)}", {"a": [1]}),
        ("/path/with=sign", "/path/with=sign"),
        ("no-shard", "no-shard"),
        ("2025-06-01", "2025-06-01"),
        ("007", "007"),
        ("...", "..."),
        ("{1, 2}", "{1, 2}"),
        ("", ""),
        # Quotes that a shell left, or took.
        ("\"['a', 'b']\"", ["a", "b"]),
        ("'[1, 2]'", [1, 2]),
        ("\"{'a': 1}\"", {"a": 1}),
        ("'[not a list'", "[not a list"),
        ("'true'", "true"),
        ("'1e-4'", "1e-4"),
        ("[a, b]", ["a", "b"]),
        ("[/data/a,/data/b]", ["/data/a", "/data/b"]),
        ("[true, None, 3, x]", [True, None, 3, "x"]),
        ("[]", []),
        ('{"a": true, "b": null}', {"a": True, "b": None}),
        ('["a", false]', ["a", False]),
        ("[[a, b], [c]]", "[[a, b], [c]]"),
        ("NONE", None),
        (" 50", 50),
        (" none ", None),
    ],
)
def test_the_value_of_an_override_is_read_as_a_literal_or_text(text: str, value: Any) -> None:
    assert read_overrides([f"a.b={text}"]) == [("a.b", value)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        *(
            (
                text,
                f"override {text!r}: expected KEY=VALUE without spaces around '=', as in "
                "runner.max_epochs=50",
            )
            for text in ("runner", ".x=1", "=", "50", "=50", "runner..x=1", "runner.max_epochs:5")
        ),
        (
            "train-dataloader.x=1",
            "override 'train-dataloader.x': the config has no 'train-dataloader'. "
            "Did you mean 'train_dataloader'?",
        ),
        (
            "runer.max_epochs=1",
            "override 'runer.max_epochs': the config has no 'runer'. Did you mean 'runner'?",
        ),
        (
            "model.state_prj.in_dim=1",
            (
                "override 'model.state_prj.in_dim': model has no 'state_prj'. "
                "Did you mean 'state_proj'?"
            ),
        ),
        (
            "model.sizes.2=1",
            "override 'model.sizes.2': model.sizes is a list of 2: expected an index, 0 to 1, "
            "got '2'",
        ),
        (
            "runner.0.max_epochs=1",
            "override 'runner.0.max_epochs': runner is one FSDPTrainRunner, not a list: leave out "
            "'0'",
        ),
        ("seed.x=1", "override 'seed.x': seed is 7, which has no keys to set"),
    ],
)
def test_an_override_of_a_missing_key_is_refused(config: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config, [override])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = 1 / 0\n", "{path}:2: ZeroDivisionError: division by zero"),
        ("import json\n\njson.loads('{{')\n", "{path}:3: JSONDecodeError:"),
        ("x = = 1\n", "{path}:1: SyntaxError: invalid syntax"),
        ("_base_ = ['a.py']\n", "{path}: `_base_` is not supported"),
        ("model = dict(a=[1, {{2}}])\n", "model.a.1: expected plain data or a component's config"),
        ("model = {{1: 2}}\n", "model: expected text keys, got 1"),
    ],
)
def test_a_broken_config_file_is_named_with_its_line(
    tmp_path: Path, source: str, message: str
) -> None:
    path = tmp_path / "config.py"
    path.write_text(source.format())
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(message.format(path=path))


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "none.py")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"expected a .py or .json config, got '.yaml'"):
        load_config(tmp_path / "config.yaml")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match="expected an object of sections, got list"):
        load_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("section", "override", "key", "value"),
    [
        (
            {"type": "PI05FlowMatching", "num_inference_steps": 10},
            "num_steps=5",
            "num_inference_steps",
            5,
        ),
        (
            {"type": "URRTCInferenceRunner", "execution_horizon": 16},
            "execute_horizon=8",
            "execution_horizon",
            8,
        ),
        (
            {"type": "DenormalizePrivateAction", "norm_type": "mean_std"},
            "use_quantiles=True",
            "norm_type",
            "quantile",
        ),
        (
            {"type": "PI0FlowMatching", "num_steps": 10},
            "num_inference_steps=5",
            "num_inference_steps",
            5,
        ),
        ({"type": "PI0FlowMatching", "num_steps": 10}, "num_steps=5", "num_steps", 5),
    ],
)
def test_an_override_takes_effect_whichever_spelling_it_and_the_section_have(
    section: dict[str, Any], override: str, key: str, value: Any
) -> None:
    tree = {"sections": [section]}
    [changed] = apply_overrides(tree, [f"sections.0.{override}"])["sections"]
    assert changed == {"type": section["type"], key: value}


def test_the_last_of_two_spellings_in_overrides_wins() -> None:
    tree = {"model": {"type": "PI0FlowMatching", "num_inference_steps": 10}}
    options = ["model.num_inference_steps=4", "model.num_steps=5"]
    assert apply_overrides(tree, options)["model"]["num_inference_steps"] == 5


def test_settings_replace_keys_in_either_spelling() -> None:
    model = {"type": "PI0FlowMatching", "num_inference_steps": 10}
    assert with_settings(model, {"num_steps": 5, "dim": 1}) == {
        **model,
        "num_inference_steps": 5,
        "dim": 1,
    }


def test_spaces_around_the_equals_sign_are_ignored() -> None:
    assert read_overrides(["a.b = 50", " c=[1] "]) == [("a.b", 50), ("c", [1])]


SHARDED = {
    "type": "FSDPTrainRunner",
    "sharding_strategy": "full-shard",
    "sharded_checkpoints": True,
    "max_steps": 4,
    "stage": "vla-full-train",
    "num_epoch": 3,
}


def test_a_new_type_drops_the_fields_that_it_lacks_with_one_warning_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tree = {"runner": SHARDED}
    runner = apply_overrides(tree, ["runner.type=DDPTrainRunner", "runner.max_steps=9"])["runner"]
    # What FluxVLA's runners ignored stays ignored, and a misspelt key stays to be reported.
    kept = {"max_steps": 9, "stage": "vla-full-train", "num_epoch": 3}
    assert runner == {"type": "DDPTrainRunner", **kept}
    assert caplog.messages == [
        "runner.sharding_strategy: dropped 'full-shard', because DDPTrainRunner has no such field",
        "runner.sharded_checkpoints: dropped True, because DDPTrainRunner has no such field",
    ]
    assert tree == {"runner": SHARDED}


def test_a_new_type_keeps_the_fields_that_are_set_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ["runner.sharding_strategy=no-shard", "runner.type=DDPTrainRunner"]
    runner = apply_overrides({"runner": SHARDED}, options)["runner"]
    assert runner["sharding_strategy"] == "no-shard"
    assert len(caplog.messages) == 2
    assert apply_overrides({"runner": SHARDED}, ["runner.type=FSDPTrainRunner"]) == {
        "runner": SHARDED
    }


@pytest.mark.parametrize(
    ("steps", "option", "kept"),
    [
        (
            [{"type": "AugmentImages", "crop": 0.9}],
            "transforms.0.type=SimpleNormalizeImages",
            {"type": "SimpleNormalizeImages"},
        ),
        (
            [{"type": "ResizeImages", "height": 2, "width": 3}],
            "transforms.0.type=ResizeImagesWithPad",
            {"type": "ResizeImagesWithPad", "height": 2, "width": 3},
        ),
        (
            [{"type": "DenormalizeActions", "use_quantiles": True, "action_dim": 7}],
            "transforms.0.type=NormalizeStatesAndActions",
            {"type": "NormalizeStatesAndActions", "use_quantiles": True, "action_dim": 7},
        ),
    ],
)
def test_a_new_type_of_a_section_in_a_list_keeps_the_fields_that_it_has(
    steps: list[dict[str, Any]], option: str, kept: dict[str, Any]
) -> None:
    assert apply_overrides({"transforms": steps}, [option])["transforms"] == [kept]


def test_a_new_type_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^runner.type: no component is called 'DPTrainRunner'"):
        apply_overrides({"runner": SHARDED}, ["runner.type=DPTrainRunner"])
