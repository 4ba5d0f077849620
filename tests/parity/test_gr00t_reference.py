"""Our GR00T against outputs that NVIDIA's own code computed (`parity-gr00t/README.md`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flux_core.models.flow import (
    FlowDraws,
    PrefixCache,
    flow_errors,
    flow_mask,
    flow_matching_loss,
    sample_actions,
)
from flux_core.models.gr00t import GR00TFlowMatching
from flux_core.models.gr00t.checkpoints import from_ours
from flux_core.models.gr00t.times import time_bucket

from .gr00t_reference import (
    EMBODIMENTS,
    GRADIENT_TOLERANCE,
    close,
    inputs_of,
    prefix_of,
    tiny_model,
)

SAMPLES = (0, 1)
STEPS = 4


@pytest.fixture(scope="module")
def case(shared_data: Path) -> dict[str, Tensor]:
    """Inputs, outputs and gradients of two samples."""
    return load_file(shared_data / "parity-gr00t" / "case_A.safetensors")


@pytest.fixture
def model(shared_data: Path) -> GR00TFlowMatching:
    return tiny_model(shared_data / "parity-gr00t")


@pytest.fixture
def batch(case: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both samples, left-padded, as training has them."""
    given = {name: case[f"batch.input.{name}"] for name in ("input_ids", "attention_mask")}
    both = {
        name: torch.cat([case[f"{sample}.input.{name}"] for sample in SAMPLES])
        for name in ("state", "action", "action_mask", "noise", "time", "embodiment_id")
    }
    images = torch.stack([case[f"{sample}.input.pixel_values"] for sample in SAMPLES])
    mask = both["action_mask"]
    assert torch.equal(mask, mask[:, :1].expand_as(mask)), "no repeated steps in this case"
    return {
        "images": images,
        "image_masks": torch.ones(images.shape[:2], dtype=torch.bool),
        "lang_tokens": given["input_ids"],
        "lang_masks": given["attention_mask"].bool(),
        "states": both["state"][:, 0],
        "actions": both["action"],
        "action_masks": torch.ones(mask.shape[:2], dtype=torch.bool),
        "action_dim_masks": mask[:, 0].bool(),
        "embodiment_ids": both["embodiment_id"],
        "noise": both["noise"],
        "t": 1.0 - both["time"],
    }


def outputs_of(model: nn.Module, *names: str) -> dict[str, list[Tensor]]:
    """Records what these modules return, from now on."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def record(name: str):
        def hook(module: nn.Module, given: object, out: object) -> None:
            found[name].append(out[0] if isinstance(out, tuple) else out)

        return hook

    for name in names:
        model.get_submodule(name).register_forward_hook(record(name))
    return found


@pytest.mark.parametrize("sample", SAMPLES)
def test_pixels_are_those_of_the_reference(case: dict[str, Tensor], sample: int) -> None:
    images = case[f"{sample}.input.images_uint8"].permute(0, 3, 1, 2).float() / 127.5 - 1.0
    torch.testing.assert_close(images, case[f"{sample}.input.pixel_values"], atol=1.2e-7, rtol=0.0)


@pytest.mark.parametrize("sample", SAMPLES)
@torch.no_grad()
def test_every_stage_of_the_prefix_agrees(model, case, sample: int) -> None:
    expected = {
        "vision_backbone.vision.vision_model.embeddings": "vision_embeddings",
        "vision_backbone": "vision_features",
        "projector": "image_embeds",
        **{f"llm_backbone.model.layers.{i}": f"llm_layer.{i}" for i in range(3)},
        "llm_backbone": "backbone_features",
        "vlln": "vlln",
        **{f"vl_self_attention.transformer_blocks.{i}": f"vl_self_attention.{i}" for i in (0, 1)},
    }
    found = outputs_of(model, *expected)
    inputs = inputs_of(case, sample)
    embedded, masks = model.embed_prefix(
        *(inputs[name] for name in ("images", "image_masks", "lang_tokens", "lang_masks"))
    )
    assert masks.all()
    close(embedded, case[f"{sample}.output.llm_input"])
    prefix_of(model, inputs)
    for ours, theirs in expected.items():
        close(found[ours][-1], case[f"{sample}.output.{theirs}"])


@pytest.mark.parametrize("sample", SAMPLES)
@torch.no_grad()
def test_every_stage_of_every_denoising_step_agrees(model, case, sample: int) -> None:
    inputs = inputs_of(case, sample)
    cache = prefix_of(model, inputs)
    blocks = {f"dit.transformer_blocks.{i}": f"dit_block.{i}" for i in range(4)}
    expected = {
        "dit.timestep_encoder": "temb",
        "action_encoder": "action_features",
        **blocks,
        "dit": "dit_output",
    }
    found = outputs_of(model, "state_encoder", *expected)
    velocities: list[Tensor] = []
    for step, x in enumerate(case[f"{sample}.output.steps.x"][:STEPS]):
        t = torch.full((1, 1), 1.0 - step / STEPS)
        velocities.append(velocity(model, inputs, x[None], t, cache))
    close(found["state_encoder"][0], case[f"{sample}.output.state_features"])
    for ours, theirs in expected.items():
        stacked = torch.cat(found[ours])
        close(
            stacked[:, 0] if theirs == "temb" else stacked, case[f"{sample}.output.steps.{theirs}"]
        )
    # Ours points from the actions to the noise.
    close(-torch.cat(velocities), case[f"{sample}.output.steps.velocity"])


@pytest.mark.parametrize("sample", SAMPLES)
@torch.no_grad()
def test_the_input_of_the_transformer_agrees(model, case, sample: int) -> None:
    inputs = inputs_of(case, sample)
    seen: list[Tensor] = []
    model.dit.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    velocity(model, inputs, inputs["noise"], torch.ones(1, 1), prefix_of(model, inputs))
    close(seen[0], case[f"{sample}.output.steps.dit_input"][:1])


@pytest.mark.parametrize("num_inference_steps", [4, 7, 10])
@pytest.mark.parametrize("sample", SAMPLES)
@torch.no_grad()
def test_sampled_actions_agree_and_the_noise_is_not_modified(
    model, case, sample: int, num_inference_steps: int
) -> None:
    inputs = inputs_of(case, sample)
    before = inputs["noise"].clone()
    actions = actions_of(model, inputs, num_inference_steps)
    close(actions, case[f"{sample}.output.actions_{num_inference_steps}"])
    assert torch.equal(inputs["noise"], before)


@pytest.mark.parametrize("sample", SAMPLES)
@torch.no_grad()
def test_every_stage_of_training_agrees(model, case, sample: int) -> None:
    inputs, output = inputs_of(case, sample), f"{sample}.output.train"
    t, actions = inputs["t"][:, None], case[f"{sample}.input.action"]
    x_t = t[..., None] * inputs["noise"] + (1.0 - t[..., None]) * actions
    close(x_t, case[f"{output}.x_t"])
    close(actions - inputs["noise"], case[f"{output}.velocity_target"])
    assert time_bucket(t[:, 0]).tolist() == case[f"{output}.bucket"].tolist()
    found = outputs_of(model, "dit.timestep_encoder", "dit")
    predicted = -velocity(model, inputs, x_t, t, prefix_of(model, inputs))
    close(found["dit.timestep_encoder"][0][:, 0], case[f"{output}.temb"])
    close(found["dit"][0], case[f"{output}.dit_output"])
    close(predicted, case[f"{output}.velocity"])
    mask = case[f"{sample}.input.action_mask"]
    error = (predicted - case[f"{output}.velocity_target"]).square() * mask
    close(error.sum() / mask.sum(), case[f"{output}.loss"])


def test_loss_and_gradients_of_the_padded_batch_agree(model, batch, case) -> None:
    draws = FlowDraws(noise=batch["noise"], t=batch["t"], delays=None)
    errors, mask = flow_errors(model, batch, draws), flow_mask(model, batch, draws)
    loss = (errors * mask).sum() / mask.sum()
    close(loss, case["output.loss"])
    loss.backward()
    unused = {name for name in case if ".vision_model.head." in name and "grad_norm" in name}
    assert unused and all(case[name] == -1 for name in unused)
    for name, parameter in model.named_parameters():
        theirs = from_ours(name, "nvidia")
        assert parameter.grad is not None, name
        norm = case[f"grad_norm.{theirs}"].squeeze()
        # A key's bias shifts all scores equally: its gradient is zero up to rounding.
        torch.testing.assert_close(
            parameter.grad.norm(), norm, rtol=GRADIENT_TOLERANCE, atol=1e-6, msg=name
        )
    compared = check_full_gradients(model, case)
    assert compared == 14


def check_full_gradients(model: GR00TFlowMatching, case: Mapping[str, Tensor]) -> int:
    """Compares the gradients that the case has in full; returns how many."""
    ours = {from_ours(name, "nvidia"): parameter for name, parameter in model.named_parameters()}
    compared = 0
    for name, expected in case.items():
        if not name.startswith("grad."):
            continue
        key, _, part = name.removeprefix("grad.").partition("[")
        gradient = ours[key].grad
        assert gradient is not None
        if part:
            others = [e for e in range(len(gradient)) if e not in EMBODIMENTS]
            assert not gradient[others].any(), "other embodiments have no gradient"
            gradient = gradient[list(EMBODIMENTS)]
        difference = (gradient - expected).norm() / expected.norm()
        assert difference < GRADIENT_TOLERANCE, f"{name}: {difference}"
        compared += 1
    return compared


@pytest.mark.parametrize("side", ["left", "right", "both"])
@torch.no_grad()
def test_padding_and_the_other_samples_of_a_batch_change_nothing(
    model, batch, case, side: str
) -> None:
    """NVIDIA's mixer and cross attention read padding as content (G1)."""
    padded = with_padding(batch, side)
    inputs = {**padded, "state": batch["states"], "embodiments": batch["embodiment_ids"]}
    actions = actions_of(model, inputs, STEPS)
    for sample in SAMPLES:
        close(actions[sample : sample + 1], case[f"{sample}.output.actions_{STEPS}"])
    leaks = case["batch.leak.actions_4_eager"]
    assert (actions - leaks).abs().max() > 0.05


def with_padding(batch: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    """Moves the padding of the prompts; 'both' adds three tokens on either side, with garbage."""
    tokens, masks = batch["lang_tokens"], batch["lang_masks"]
    if side == "right":
        order = (~masks).long().argsort(dim=1, stable=True)
        tokens, masks = tokens.gather(1, order), masks.gather(1, order)
    elif side == "both":
        garbage = torch.full((len(tokens), 3), 299)
        tokens = torch.cat((garbage, tokens, garbage), dim=1)
        no = torch.zeros_like(garbage, dtype=torch.bool)
        masks = torch.cat((no, masks, no), dim=1)
    return {**batch, "lang_tokens": tokens, "lang_masks": masks}


@torch.no_grad()
def test_a_batch_of_one_robot_equals_each_sample_alone(model, case) -> None:
    """One matrix product serves all rows of an embodiment."""
    one = inputs_of(case, 0)
    noise = torch.randn(3, *one["noise"].shape[1:], generator=torch.Generator().manual_seed(5))
    both = {name: value.expand(3, *value.shape[1:]) for name, value in one.items()}
    together = actions_of(model, both | {"noise": noise}, STEPS)
    for row in range(3):
        alone = actions_of(model, one | {"noise": noise[row : row + 1]}, STEPS)
        close(together[row : row + 1], alone)


@torch.no_grad()
def test_the_training_loss_is_the_references(model, batch, case, monkeypatch) -> None:
    draws = FlowDraws(noise=batch["noise"], t=batch["t"], delays=None)
    monkeypatch.setattr("flux_core.models.flow.sampling.draw_flow", lambda *a, **k: draws)
    close(flow_matching_loss(model, batch).loss, case["output.loss"])


@torch.no_grad()
def test_one_embodiment_kept_for_a_robot_gives_the_same_actions(model, case) -> None:
    inputs = inputs_of(case, 0)
    model.keep_embodiment(31)
    assert model.state_encoder.layer1.W.shape[0] == 1
    actions = actions_of(model, inputs | {"embodiments": None}, STEPS)
    close(actions, case["0.output.actions_4"])


@pytest.mark.parametrize("num_inference_steps", [4, 7, 10])
@torch.no_grad()
def test_tables_of_times_and_angles_give_the_same_actions(
    model, case, num_inference_steps: int
) -> None:
    inputs = inputs_of(case, 1)
    model.tabulate(num_inference_steps, inputs["lang_tokens"].shape[1])
    actions = actions_of(model, inputs, num_inference_steps)
    close(actions, case[f"1.output.actions_{num_inference_steps}"])


def actions_of(
    model: GR00TFlowMatching, inputs: Mapping[str, Tensor], num_inference_steps: int
) -> Tensor:
    """Samples from the inputs' noise."""
    return sample_actions(
        model,
        inputs["state"],
        prefix_of(model, inputs),
        inputs["noise"],
        num_inference_steps,
        embodiments=inputs["embodiments"],
    )


def velocity(
    model: GR00TFlowMatching,
    inputs: Mapping[str, Tensor],
    x_t: Tensor,
    t: Tensor,
    cache: PrefixCache,
) -> Tensor:
    """Our velocity: noise minus actions."""
    return model.denoise(inputs["state"], x_t, t, cache, embodiments=inputs["embodiments"])
