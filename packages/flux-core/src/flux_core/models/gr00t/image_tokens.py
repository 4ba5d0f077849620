"""Where a prompt holds its images, and what a missing camera leaves of it.

The prompt has one segment per camera, one behind another: its label `<image k>`, `<img>`, the
places of the image's tokens, `</img>`. A sample without a camera still has the camera's segment,
because shapes are fixed. It is masked as a whole, and the labels of the others move up, so that the
network sees what it would see if the camera had never been there.

Shape legend: B batch, C cameras, L tokens of the prompt, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ...config import check_at_least
from ...errors import DataError


class Placed(NamedTuple):
    """A prompt with its images in place.

    Attributes:
        tokens: (B, L) int64, with moved labels.
        masks: (B, L) bool, False also where a camera is missing.
        is_image: (B, L) bool, the places of image tokens.
        image_index: (B, L) int64, which of the sample's image tokens is there; any elsewhere.
    """

    tokens: Tensor
    masks: Tensor
    is_image: Tensor
    image_index: Tensor


@dataclass(frozen=True, kw_only=True)
class ImagePlaces:
    """How the prompt marks images.

    Attributes:
        token_id: the placeholder of an image token (`<IMG_CONTEXT>` in Qwen's vocabulary).
        label_tokens: length of a label, `<image 1>`.
    """

    token_id: int = 151669
    label_tokens: int = 5

    def __post_init__(self) -> None:
        check_at_least(0, self, "token_id", "label_tokens")

    def locate(
        self, tokens: Tensor, masks: Tensor, image_masks: Tensor, tokens_per_image: int
    ) -> Placed:
        """Finds the images' places, and removes the segments of missing cameras.

        Args:
            tokens: (B, L) int64; padding is on either side.
            masks: (B, L) bool, True = real token.
            image_masks: (B, C) bool, False = this camera is missing.
            tokens_per_image: how many tokens an image has.

        Raises:
            DataError: the prompt has not one segment per camera.
        """
        cameras, length = image_masks.shape[1], tokens.shape[1]
        is_image = (tokens == self.token_id) & masks
        if not torch.compiler.is_compiling():
            self._check(is_image, cameras, tokens_per_image)
        count = is_image.long().cumsum(1)
        ahead = self.label_tokens + 1
        # A token is in a segment if there are image tokens between the one in front of it and the
        # one a label and `<img>` behind it; nothing between two images is longer.
        before = functional.pad(count, (2, 0))[:, :length]
        after = torch.cat((count[:, ahead:], count[:, -1:].expand(-1, ahead)), dim=1)[:, :length]
        camera = (before // tokens_per_image).clamp(max=cameras - 1)
        in_segment = after > before
        is_present = image_masks.gather(1, camera)
        number = (image_masks.long().cumsum(1) - 1).gather(1, camera)
        # The label of the n-th camera that is there is the n-th label.
        segment = self.label_tokens + 2 + tokens_per_image
        moved = torch.where(in_segment & is_present, (camera - number) * segment, 0)
        source = torch.arange(length, device=tokens.device) - moved
        return Placed(
            tokens=tokens.gather(1, source),
            masks=masks & (is_present | ~in_segment),
            is_image=is_image,
            image_index=(count - 1).clamp(min=0, max=cameras * tokens_per_image - 1),
        )

    def _check(self, is_image: Tensor, cameras: int, tokens_per_image: int) -> None:
        expected = cameras * tokens_per_image
        for row, found in enumerate(is_image.sum(dim=1).tolist()):
            if found != expected:
                raise DataError(
                    f"lang_tokens[{row}]: expected {expected} image tokens ({cameras} cameras of "
                    f"{tokens_per_image}), got {found}. The prompt has another number of cameras, "
                    "it was cut, or the task itself holds a placeholder"
                )
        places = is_image.nonzero()[:, 1].reshape(-1, cameras, tokens_per_image)
        between = (places[:, 1:, 0] - places[:, :-1, -1] - 3).unique().tolist()
        if any(found != self.label_tokens for found in between):
            raise DataError(
                f"lang_tokens: expected labels of {self.label_tokens} tokens between the images "
                f"(image_places.label_tokens), got {between}. Was the prompt made for a network "
                "with another tokenizer?"
            )


def with_images(words_BLW: Tensor, images: Tensor, placed: Placed) -> Tensor:
    """Replaces the embeddings of placeholders by the images' tokens.

    Args:
        words_BLW: the embedded prompt.
        images: (B, C * tokens_per_image, W), the cameras in order.
        placed: where they belong.
    """
    batch, per_sample, width = images.shape
    first = torch.arange(batch, device=images.device)[:, None] * per_sample
    chosen = functional.embedding(placed.image_index + first, images.reshape(-1, width))
    return torch.where(placed.is_image[..., None], chosen.to(words_BLW.dtype), words_BLW)
