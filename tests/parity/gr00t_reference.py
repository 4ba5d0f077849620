"""The tiny GR00T of the reference outputs, as our network with its weights.

The folder `parity-gr00t` of the shared data says what its files hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from flux_core.models.flow import PrefixCache
from flux_core.models.gr00t import GR00TFlowMatching, ImagePlaces, Qwen3Backbone
from flux_core.models.gr00t.checkpoints import GR00T_CHECKPOINTS
from flux_core.models.gr00t.dit import DiT
from flux_core.models.gr00t.mixer import VLSelfAttention
from flux_core.models.layers import LinearProjector, SigLIPVisionConfig, SigLIPViTBackbone

TOLERANCE, GRADIENT_TOLERANCE = 5e-6, 1e-4
IMAGE_TOKEN, IMAGES_PER_CAMERA = 300, 16
EMBODIMENTS = (31, 2)


def tiny_config(folder: Path, **settings: Any) -> GR00TFlowMatching.Config:
    """Reads the sizes from NVIDIA's two files; `settings` override."""
    policy = json.loads((folder / "weights" / "config.json").read_text())
    eagle = json.loads((folder / "weights" / "eagle_config.json").read_text())
    head, text = policy["action_head_cfg"], eagle["text_config"]
    vision = {key: eagle["vision_config"][key] for key in SigLIPVisionConfig.__dataclass_fields__}
    dit, mixer = head["diffusion_model_cfg"], head["vl_self_attention_cfg"]
    llm = {key: text[key] for key in Qwen3Backbone.Config.__dataclass_fields__}
    llm["num_hidden_layers"] = policy["backbone_cfg"]["select_layer"]
    sizes: dict[str, Any] = dict(
        vision_backbone=SigLIPViTBackbone.Config(vision_config=SigLIPVisionConfig(**vision)),
        projector=LinearProjector.Config(in_dim=vision["hidden_size"], out_dim=llm["hidden_size"]),
        llm_backbone=Qwen3Backbone.Config(**llm),
        vl_self_attention=VLSelfAttention.Config(
            **{key: mixer[key] for key in VLSelfAttention.Config.__dataclass_fields__}
        ),
        dit=DiT.Config(**{key: dit[key] for key in DiT.Config.__dataclass_fields__}),
        image_places=ImagePlaces(token_id=eagle["image_token_index"], label_tokens=1),
        n_action_steps=head["action_horizon"],
        num_inference_steps=head["num_inference_timesteps"],
        max_state_dim=head["max_state_dim"],
        max_action_dim=head["action_dim"],
        hidden_size=head["hidden_size"],
        num_future_tokens=head["num_target_vision_tokens"],
        num_positions=head["max_seq_len"],
        num_embodiments=head["max_num_embodiments"],
    )
    return GR00TFlowMatching.Config(**(sizes | settings))


def load_reference_weights(model: GR00TFlowMatching, folder: Path) -> None:
    """Fills the network strictly from the reference's weights."""
    theirs = load_file(folder / "weights" / "model.safetensors")
    names, unknown = GR00T_CHECKPOINTS.our_names(theirs, "nvidia")
    assert unknown == []
    model.load_state_dict({ours: theirs[name] for ours, name in names.items()})


def tiny_model(folder: Path, **settings: Any) -> GR00TFlowMatching:
    """The network with the reference's weights, in evaluation mode."""
    model = tiny_config(folder, **settings).build().eval()
    load_reference_weights(model, folder)
    return model


def inputs_of(case: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
    """A sample of the case, as a batch of one."""
    given = {
        name: case[f"{sample}.input.{name}"]
        for name in ("pixel_values", "input_ids", "attention_mask", "state", "noise", "time")
    }
    return {
        "images": given["pixel_values"][None],
        "image_masks": torch.ones(1, len(given["pixel_values"]), dtype=torch.bool),
        "lang_tokens": given["input_ids"],
        "lang_masks": given["attention_mask"].bool(),
        "state": given["state"][:, 0],
        "noise": given["noise"],
        # GR00T's time runs from noise to actions, ours the other way.
        "t": 1.0 - given["time"],
        "embodiments": case[f"{sample}.input.embodiment_id"],
    }


def prefix_of(model: GR00TFlowMatching, inputs: Mapping[str, Tensor]) -> PrefixCache:
    """Encodes images and prompt."""
    return model.prefix(
        *(inputs[name] for name in ("images", "image_masks", "lang_tokens", "lang_masks"))
    )


def close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Compares with the tolerance times the largest reference value, but at least 1."""
    limit = tolerance * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, atol=limit, rtol=0.0)
