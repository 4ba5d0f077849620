"""What training, export and runtime rely on, for every registered network."""

from __future__ import annotations

import dataclasses
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from flux_core.agreement import rule_of
from flux_core.config import NETWORKS, bind, component
from flux_core.errors import ConfigError
from flux_core.models import (
    FlowDraws,
    FlowPolicy,
    PrefixCache,
    flow_errors,
    sample_actions,
)
from flux_core.models.weights.families import families
from flux_core.transforms import ModelInputs, Normalization, Pipeline, Tokenization

CAMERAS = 3


def network(kind: str) -> type[FlowPolicy]:
    return cast("type[FlowPolicy]", component(NETWORKS[kind]))


@cache
def config_of(kind: str) -> FlowPolicy.Config:
    return bind(FlowPolicy.Config, network(kind).Config.sized("small"), "model")


def built(kind: str) -> FlowPolicy:
    torch.manual_seed(0)
    return config_of(kind).build().eval()


def pipeline_of(config: FlowPolicy.Config) -> Pipeline:
    return Pipeline(tuple(config.example_transforms()), where="transforms")


def encoded(model: FlowPolicy, batch: int = 2) -> PrefixCache:
    images = torch.randn(batch, CAMERAS, 3, *model.config.image_size)
    image_masks = torch.ones(batch, CAMERAS, dtype=torch.bool)
    sample = {"task_description": "fold", "states": np.zeros(14, np.float32), "num_state_dims": 14}
    pipeline = pipeline_of(model.config)
    written = pipeline.one(Tokenization)(pipeline.prompt(sample))
    tokens, masks = (torch.from_numpy(written[f"lang_{name}"]) for name in ("tokens", "masks"))
    return model.prefix(images, image_masks, tokens.expand(batch, -1), masks.expand(batch, -1))


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_a_network_is_what_its_base_says(kind: str) -> None:
    model = built(kind)
    config = model.config
    assert model.kind == kind and model.checkpoints in families()
    names = [name for name, _ in model.named_parameters()]
    assert set(model.without_effect()) < set(names)
    assert {id(layer) for layer in model.layers} <= {id(module) for module in model.modules()}
    assert all(model.get_submodule(name) for name in model.streams)
    held = encoded(model)
    assert len(held.keys) == len(held.values) == model.num_cached_layers
    assert {len(part) for part in (*held.keys, *held.values, held.pad_masks)} == {2}
    state_dim = pipeline_of(config).one(Normalization).state_dim or config.action_dim
    horizon, state = config.n_action_steps, torch.randn(2, state_dim)
    x_t, t = torch.randn(2, horizon, config.action_dim), torch.full((2, horizon), 0.75)
    velocity = model.denoise(state, x_t, t, held)
    assert velocity.shape == x_t.shape and velocity.dtype == torch.float32
    shared = model.denoise(state, x_t, t, held, model.suffix_context(held, horizon))
    assert torch.equal(shared, velocity)
    # One time for all steps.
    torch.testing.assert_close(model.denoise(state, x_t, t[:, :1], held), velocity)
    once = sample_actions(model, state, held, x_t, 4)
    model.tabulate(4, held.pad_masks.shape[1])
    torch.testing.assert_close(sample_actions(model, state, held, x_t, 4), once, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_field_of_a_network_has_a_rule_and_times_are_times(kind: str) -> None:
    config = config_of(kind)
    fields = {field.name for field in dataclasses.fields(config)}
    assert {name for name in fields if rule_of(type(config), name) is None} == set()
    assert fields >= config.ignored_on_resume.keys() | config.reported_on_resume.keys()
    times = config.sample_time(1000, generator=None, device=torch.device("cpu"))
    assert times.dtype == torch.float32 and times.shape == (1000,)
    # The clean end is never trained; the noisy one may be passed by a thousandth.
    assert 0.0 < float(times.min()) < 0.05 < 0.95 < float(times.max()) <= 1.0 / 0.999


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_example_transforms_fit_the_network(kind: str) -> None:
    config = config_of(kind)
    sizes = ModelInputs(
        image_size=config.image_size, action_dim=config.action_dim, pixel_range=config.pixel_range
    )
    pipeline_of(config).check_model(sizes)


def test_a_section_without_its_type_is_refused() -> None:
    tree = {k: v for k, v in network("pi0").Config.sized("small").items() if k != "type"}
    with pytest.raises(ConfigError, match="model: expected FlowPolicy, got a dict without 'type'"):
        bind(FlowPolicy.Config, tree, "model")


def test_embodiments_reach_every_row_of_the_loss_and_every_step_of_sampling() -> None:
    seen: list[torch.Tensor] = []

    class Toy:
        config = SimpleNamespace(
            num_inference_steps=3,
            loss_action_dim=None,
            prefix_stride=1,
            action_smoothing=0.0,
            action_dim=1,
        )

        def prefix(self, *_: torch.Tensor) -> PrefixCache:
            return PrefixCache([], [], torch.ones(2, 1, dtype=torch.bool))

        def suffix_context(self, *_: object) -> tuple[torch.Tensor, ...]:
            return ()

        def denoise(self, state: Any, x_t: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
            seen.append(named["embodiments"] if named else more[-1])
            return torch.zeros_like(x_t)

    model, ids = cast(FlowPolicy, Toy()), torch.tensor([3, 5])
    batch = dict.fromkeys(("images", "image_masks", "lang_tokens", "lang_masks"), torch.zeros(2))
    batch |= {"actions": torch.zeros(2, 4, 1), "states": torch.zeros(2, 1), "embodiment_ids": ids}
    flow_errors(model, batch, FlowDraws(torch.zeros(4, 4, 1), torch.ones(4), None))
    assert seen.pop().tolist() == [3, 3, 5, 5]
    held = model.prefix(torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1))
    sample_actions(model, None, held, torch.zeros(2, 4, 1), embodiments=ids)
    assert [each.tolist() for each in seen] == [[3, 5]] * 3
