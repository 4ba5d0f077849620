"""GR00T's images against NVIDIA's and Eagle's own code, and the resizing that they use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch.nn import functional

from flux_core.errors import ConfigError, DataError
from flux_core.transforms import LeRobotResizeImages, NvidiaResizeImages, SimpleNormalizeImages
from flux_core.transforms.gr00t.resampling import (
    bicubic,
    bilinear,
    resample,
    resample_bytes,
    resample_cut,
)

PICTURES = ("landscape", "portrait", "small")
SIDE = 56


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> dict[str, NDArray[np.generic]]:
    return load_file(shared_data / "parity-gr00t" / "preprocess.safetensors")


def check(found: NDArray[np.uint8], expected: NDArray[np.generic]) -> None:
    """Within one level, on at most 0.5 % of the values."""
    off = np.abs(found.astype(np.int64) - expected.astype(np.int64))
    assert off.max() <= 1 and (off > 0).mean() <= 0.005


@pytest.mark.parametrize("picture", PICTURES)
def test_nvidias_images_agree(reference, picture: str) -> None:
    step = NvidiaResizeImages(height=SIDE, width=SIDE)
    found = step({"images": [reference[f"image.{picture}.input_uint8_hwc"]]})["images"]
    assert found.shape == (1, SIDE, SIDE, 3) and found.dtype == np.uint8
    check(found[0], reference[f"image.{picture}.nvidia_eval_uint8_hwc"])


@pytest.mark.parametrize("picture", PICTURES)
def test_lerobots_images_agree(reference, picture: str) -> None:
    step = LeRobotResizeImages(height=SIDE, width=SIDE)
    found = step.resize(reference[f"image.{picture}.input_uint8_hwc"])
    pixels = reference[f"image.{picture}.eagle_one_tile"][0].transpose(1, 2, 0)
    check(found, np.rint((pixels + 1.0) * 127.5))


def test_pixels_of_nvidias_image_agree(reference) -> None:
    image = reference["image.landscape.nvidia_eval_uint8_hwc"]
    pixels = SimpleNormalizeImages()({"images": image[None]})["images"]
    expected = reference["image.landscape.nvidia_pixel_values"]
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("size", [(480, 640), (150, 101), (20, 30), (56, 56), (1, 1)], ids=str)
def test_resizing_equals_pytorchs(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    image[: size[0] // 2] = 255
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    settings = dict(size=(SIDE, SIDE + 8), antialias=True, align_corners=False)
    floats = functional.interpolate(tensor.float() / 255.0, mode="bilinear", **settings)
    found = resample(image, SIDE, SIDE + 8, bilinear)
    np.testing.assert_allclose(found, floats[0].permute(1, 2, 0), rtol=0, atol=3e-6)
    # With channels last, PyTorch has a path of integers that others lack.
    last = tensor.contiguous(memory_format=torch.channels_last)
    whole = functional.interpolate(last, mode="bicubic", **settings)
    check(resample_bytes(image, SIDE, SIDE + 8, bicubic), whole[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("size", [(480, 640), (120, 160), (50, 40)], ids=str)
def test_overexposed_parts_are_cut_as_pytorch_cuts_them(size: tuple[int, int]) -> None:
    """PyTorch's rounding makes one in six of their values 254."""
    down, across = np.mgrid[: size[0], : size[1]] / size[0]
    waves = [150 + 150 * np.sin(5 * across + 3 * down + channel) for channel in range(3)]
    noise = np.random.default_rng(0).normal(0.0, 3.0, (*size, 3))
    image = np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)
    image[:10, :30], image[-10:, :30] = 100, 0
    assert (image == 255).mean() > 0.1
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0
    floats = functional.interpolate(tensor, size=(224, 224), mode="bilinear", antialias=True)
    expected = (floats[0] * 255.0).to(torch.uint8).permute(1, 2, 0)
    check(resample_cut(image, 224, 224, bilinear), expected.numpy())


def test_anything_but_bytes_is_refused() -> None:
    for step in (NvidiaResizeImages(), LeRobotResizeImages()):
        with pytest.raises(DataError, match="images: expected"):
            step.resize(np.zeros((20, 30, 3), np.float32))


@pytest.mark.parametrize("crop", [0.0, 1.5])
def test_a_crop_that_is_no_share_is_refused(crop: float) -> None:
    with pytest.raises(ConfigError, match="crop: expected a share"):
        NvidiaResizeImages(crop=crop)
