"""Of a network with weights for several robots, a bundle holds one robot's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flux_core.config import bind, load_config
from flux_core.errors import ExportError
from flux_core.models import FlowPolicy
from flux_core.models.gr00t import GR00TFlowMatching
from flux_runtime.export.source.embodiment import keep_own_embodiment

CONFIG = Path(__file__).parents[3] / "configs/gr00t/gr00t_eagle_3b_ur3_full_finetune.py"


def network(count: int = 4) -> FlowPolicy:
    tree = {**GR00TFlowMatching.Config.sized("small"), "num_embodiments": count}
    torch.manual_seed(0)
    return bind(FlowPolicy.Config, tree, "model").build()


def robot(embodiment: int | None) -> Any:
    return SimpleNamespace(
        dataset=SimpleNamespace(embodiment=embodiment),
        spec=SimpleNamespace(name="ur3"),
        statistics_group=lambda groups: next(iter(groups)),
    )


def with_embodiments(*ids: int | str | None) -> dict[str, Any]:
    """The training section of some datasets in one group."""
    datasets = [
        {"type": "ParquetDataset", "transforms": [_inputs(chosen)], "data_root_path": "data"}
        for chosen in ids
    ]
    return {
        "train_dataloader": {
            "dataset": {"type": "DistributedRepeatingDataset", "datasets": datasets}
        }
    }


def _inputs(chosen: int | str | None) -> dict[str, Any]:
    columns = {"parquet_keys": ["observation.state", "action"], "video_keys": ["top"]}
    return {"type": "ProcessParquetInputs", **columns, "embodiment_id": chosen}


def test_only_the_robots_own_weights_are_kept() -> None:
    model = network()
    own = model.state_dict()["action_decoder.layer1.W"][2].clone()

    config = keep_own_embodiment(model, robot(2), {"model": {}}, "c.pt")

    weights = model.state_dict()
    assert weights["action_decoder.layer1.W"].shape[0] == 1
    assert torch.equal(weights["action_decoder.layer1.W"][0], own)
    again = bind(FlowPolicy.Config, config["model"], "model")
    assert again.embodiments == model.config.embodiments == 1
    again.build().load_state_dict(weights, strict=True)


def test_a_network_with_one_embodiment_stays_as_it_is() -> None:
    model, config = network(1), {"model": {"type": "as it was"}}
    assert keep_own_embodiment(model, robot(None), config, "c.pt") is config


def test_without_a_number_of_its_own_a_robot_has_that_of_its_data() -> None:
    model = network()
    own = model.state_dict()["state_encoder.layer1.W"][2].clone()  # FluxVLA's number of UR3
    keep_own_embodiment(model, robot(None), load_config(CONFIG), "c.pt")
    assert torch.equal(model.state_dict()["state_encoder.layer1.W"][0], own)


@pytest.mark.parametrize("ids", [(1, 2), (None, None)])
def test_data_of_several_embodiments_or_none_need_a_number(ids: tuple[int | None, ...]) -> None:
    with pytest.raises(ExportError, match=r"embodiment_id: expected the embodiment of robot"):
        keep_own_embodiment(network(), robot(None), with_embodiments(*ids), "c.pt")
