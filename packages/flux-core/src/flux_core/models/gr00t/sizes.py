"""GR00T as config trees: GR00T-N1.5-3B (2.4 B parameters), and smaller ones for measurements."""

from __future__ import annotations

from typing import Any

from ...config import with_settings
from ...tokenizers import ByteTokenizer
from ...transforms.gr00t import IMAGE_TOKEN, MOST_IMAGES, prompt_words
from ..flow.policy import Size

WORDS = ByteTokenizer(words=prompt_words(MOST_IMAGES))
"""A tokenizer that needs no file, for prompts of any number of images."""

_SMALLER: dict[Size, dict[str, int]] = {
    # Width, mlp, layers and head of the language model; vision width and layers; DiT's layers and
    # heads; output width.
    "small": dict(width=256, mlp=768, layers=4, head=32, vision=128, tower=4, dit=6, heads=4),
    "medium": dict(width=512, mlp=1536, layers=6, head=64, vision=256, tower=6, dit=8, heads=8),
}
_HEAD = 48
"""Dimensions of a head of the DiT, in all sizes."""


def gr00t_model(**settings: Any) -> dict[str, Any]:
    """GR00T-N1.5-3B; `settings` override and add keys."""
    return with_settings(dict(type="GR00TFlowMatching"), settings)


def sized_gr00t(size: Size) -> dict[str, Any]:
    """Returns a network of one size for `WORDS`, with random weights in mind."""
    places = dict(token_id=WORDS.encode(IMAGE_TOKEN)[-1], label_tokens=1)
    if size == "full":
        return gr00t_model(image_places=places)
    sizes = _SMALLER[size]
    width, vision, hidden = sizes["width"], sizes["vision"], sizes["width"] // 2
    return gr00t_model(
        image_places=places,
        vision_backbone=dict(
            type="SigLIPViTBackbone",
            vision_config=dict(
                hidden_size=vision,
                intermediate_size=4 * vision,
                num_hidden_layers=sizes["tower"],
                num_attention_heads=4,
                image_size=112,
            ),
        ),
        projector=dict(type="LinearProjector", in_dim=vision, out_dim=width),
        llm_backbone=dict(
            hidden_size=width,
            intermediate_size=sizes["mlp"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=sizes["head"],
            vocab_size=8192,
        ),
        vl_self_attention=dict(num_layers=2, num_attention_heads=8, attention_head_dim=width // 8),
        dit=dict(
            num_layers=sizes["dit"],
            num_attention_heads=sizes["heads"],
            attention_head_dim=_HEAD,
            output_dim=hidden,
            cross_attention_dim=width,
        ),
        hidden_size=hidden,
        num_embodiments=1,
    )
