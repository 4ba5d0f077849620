"""Our networks against outputs computed by openpi (`parity/README.md` of the shared data)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from flux_core.models import LinearProjector, SigLIPVisionConfig, SigLIPViTBackbone, sample_actions
from flux_core.models.pi import ConditionGemmaModel, PI0FlowMatching, PI05FlowMatching
from flux_core.models.pi.checkpoints import from_ours
from flux_core.models.weights.pretrained import load_pretrained


def tiny_config(kind: str, spec: dict) -> PI0FlowMatching.Config:
    def gemma(part: str, **more: object) -> ConditionGemmaModel.Config:
        sizes = spec[part]
        return ConditionGemmaModel.Config(
            hidden_size=sizes["width"],
            intermediate_size=sizes["mlp_dim"],
            num_hidden_layers=sizes["depth"],
            num_attention_heads=sizes["num_heads"],
            num_key_value_heads=sizes["num_kv_heads"],
            head_dim=sizes["head_dim"],
            **more,
        )

    vlm, width = spec["vlm"]["width"], spec["expert"]["width"]
    action, hidden = spec["action_dim"], spec["vision"]["hidden_size"]
    is_pi05 = kind == "pi05"
    adarms = {"use_adarms": True, "adarms_cond_dim": width} if is_pi05 else {}
    cls = PI05FlowMatching if is_pi05 else PI0FlowMatching
    return cls.Config(
        vision_backbone=SigLIPViTBackbone.Config(
            vision_config=SigLIPVisionConfig(**spec["vision"])
        ),
        projector=LinearProjector.Config(in_dim=hidden, out_dim=vlm),
        llm_backbone=gemma("vlm", vocab_size=spec["vocab"]),
        llm_expert=gemma("expert", **adarms),
        proj_width=width,
        n_action_steps=spec["horizon"],
        state_proj=None if is_pi05 else LinearProjector.Config(in_dim=action, out_dim=width),
        action_in_proj=LinearProjector.Config(in_dim=action, out_dim=width),
        action_out_proj=LinearProjector.Config(in_dim=width, out_dim=action),
    )


@pytest.fixture(params=["pi0", "pi05"])
def reference(request: pytest.FixtureRequest, shared_data: Path):
    """The loaded model, the case's tensors and the kind."""
    folder, kind = shared_data / "parity", request.param
    with safe_open(folder / f"{kind}_caseA.safetensors", "pt") as file:
        spec = json.loads(file.metadata()["spec"])
    model = tiny_config(kind, spec).build()
    assert load_pretrained(model, folder / f"{kind}_weights_openpi.safetensors") == []
    return model, load_file(folder / f"{kind}_caseA.safetensors"), kind


def encode(model: PI0FlowMatching, case: dict):
    return model.prefix(
        *(case[f"input.{name}"] for name in ("images", "image_masks", "lang_tokens", "lang_masks"))
    )


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0.0)


def test_normalised_images_equal_the_reference_models_input(reference) -> None:
    _, case, _ = reference
    images = case["input.images_uint8"].float() / 255.0 * 2.0 - 1.0
    valid = case["input.image_masks"]
    close(images[valid], case["input.images"][valid], 1e-6)


def test_prefix_embeddings_masks_and_cache_agree(reference) -> None:
    model, case, _ = reference
    inputs = [case[f"input.{n}"] for n in ("images", "image_masks", "lang_tokens", "lang_masks")]
    embedded, pad_masks = model.embed_prefix(*inputs)
    valid = case["output.prefix_pad_masks"]
    assert torch.equal(pad_masks, valid)
    close(embedded[valid], case["output.prefix_embs"][valid], 1e-5)
    cache = encode(model, case)
    for layer, (key, value) in enumerate(zip(cache.keys, cache.values, strict=True)):
        for name, found in (("key", key), ("value", value)):
            expected = case[f"output.kv_cache.{layer}.{name}"]
            close(found.transpose(1, 2)[valid], expected.transpose(1, 2)[valid], 1e-5)


def test_suffix_embeddings_and_masks_agree(reference) -> None:
    model, case, kind = reference
    suffix = model.embed_suffix(
        case["input.state"], case["output.x_t"], case["input.time"][:, None]
    )
    close(suffix.tokens, case["output.suffix_embs"], 1e-5)
    if kind == "pi05":
        close(suffix.cond[:, 0], case["output.adarms_cond"], 1e-5)
    pad = case["output.prefix_pad_masks"]
    rows = suffix.tokens.shape[1]
    mask = model.suffix_mask(pad, rows, model.num_state_tokens)
    assert torch.equal(mask.expand(-1, rows, -1), case["output.att_2d_masks"][:, -rows:])


def test_velocity_and_loss_agree(reference) -> None:
    model, case, _ = reference
    t = case["input.time"][:, None]
    velocity = model.denoise(case["input.state"], case["output.x_t"], t, encode(model, case))
    close(velocity, case["output.velocity"], 2e-5)
    close((velocity - case["output.u_t"]).square(), case["output.loss"], 1e-4)


@pytest.mark.parametrize("num_inference_steps", [4, 10])
def test_sampled_actions_agree_and_the_noise_is_not_modified(
    reference, num_inference_steps: int
) -> None:
    model, case, _ = reference
    noise = case["input.noise"]
    before = noise.clone()
    actions = sample_actions(
        model, case["input.state"], encode(model, case), noise, num_inference_steps
    )
    close(actions, case[f"output.sampled_actions_{num_inference_steps}"], 1e-4)
    assert torch.equal(noise, before)


def test_gradient_norms_agree_for_every_parameter(reference) -> None:
    model, case, _ = reference
    t = case["input.time"][:, None]
    velocity = model.denoise(case["input.state"], case["output.x_t"], t, encode(model, case))
    (velocity - case["output.u_t"]).square().mean().backward()
    for name, parameter in model.named_parameters():
        expected = case.get(f"grad_norm.{from_ours(name, 'openpi')}")
        if expected is None:  # the tied embedding is stored under its other name
            assert "embed_tokens" in name
            continue
        if parameter.grad is None:
            assert expected < 1e-6, name
        else:
            torch.testing.assert_close(
                parameter.grad.norm(), expected.squeeze(), atol=1e-6, rtol=1e-4, msg=name
            )


def test_a_masked_camera_and_padded_tokens_change_nothing(reference) -> None:
    model, case, _ = reference
    t = case["input.time"][:, None]
    clean = model.denoise(case["input.state"], case["output.x_t"], t, encode(model, case))
    dirty = dict(case)
    images, tokens = case["input.images"].clone(), case["input.lang_tokens"].clone()
    images[~case["input.image_masks"]] = 123.0
    tokens[~case["input.lang_masks"]] = 77
    dirty["input.images"], dirty["input.lang_tokens"] = images, tokens
    again = model.denoise(case["input.state"], case["output.x_t"], t, encode(model, dirty))
    assert torch.equal(clean, again)
