"""Normalisation, relative actions and padding, against openpi's and LeRobot's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file

from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats, compute_stats, load_stats, save_stats
from flux_core.transforms import (
    DenormalizeActions,
    NormalizeImages,
    NormalizeStatesAndActions,
    PadKeyToDim,
    RelativeActions,
    ResizeImages,
    ResizeImagesWithPad,
    SimpleNormalizeImages,
    apply,
)
from flux_core.transforms.actions import normalize

ALOHA_MASK = (*(True,) * 6, False) * 2


@pytest.fixture(scope="module")
def openpi(shared_data: Path) -> dict[str, np.ndarray]:
    return load_file(shared_data / "preprocess" / "preprocess_openpi.safetensors")


def test_z_scores_equal_openpis(openpi: dict) -> None:
    stats = compute_stats(openpi["norm.data"])
    found = normalize(openpi["norm.x"], stats, "mean_std", "x")
    np.testing.assert_allclose(found, openpi["norm.openpi_zscore"], atol=2e-4)


def test_quantile_scaling_equals_openpis_for_its_quantiles(openpi: dict) -> None:
    exact = compute_stats(openpi["norm.data"])
    q01, q99 = openpi["norm.openpi_running_q01"], openpi["norm.openpi_running_q99"]
    stats = FeatureStats(**{**vars(exact), "q01": tuple(q01), "q99": tuple(q99)})
    found = normalize(openpi["norm.x"], stats, "quantile", "x")
    varying = q99 - q01 > 1e-3
    expected = openpi["norm.openpi_quantile"]
    np.testing.assert_allclose(found[:, varying], expected[:, varying], atol=1e-4)


def test_relative_actions_equal_openpis_and_invert(openpi: dict) -> None:
    state, actions = openpi["delta.state"], openpi["delta.actions"]
    assert openpi["delta.mask"].tolist() == list(ALOHA_MASK)
    transform = RelativeActions(mask=ALOHA_MASK)
    relative = transform.forward(actions, state)
    np.testing.assert_allclose(relative, openpi["delta.delta_actions"], atol=1e-6)
    np.testing.assert_allclose(transform.inverse(relative, state), actions, atol=1e-6)


@pytest.mark.parametrize("norm_type", ["mean_std", "quantile", "min_max"])
@given(values=arrays(np.float32, (20, 7), elements=st.floats(-5, 5, width=32)))
def test_denormalising_undoes_normalising(norm_type: str, values: np.ndarray) -> None:
    stats = compute_stats(values)
    sample = {"states": values[0], "actions": values, "stats": {"proprio": stats, "action": stats}}
    out = NormalizeStatesAndActions(norm_type=norm_type, action_dim=9, state_dim=8)(sample)
    assert out["actions"].shape == (20, 9) and out["states"].shape == (8,)
    assert not out["actions"][:, 7:].any()
    assert out["action_dim_masks"].tolist() == [True] * 7 + [False] * 2
    scale, offset = DenormalizeActions(norm_type=norm_type).affine(stats)
    np.testing.assert_allclose(out["actions"][:, :7] * scale + offset, values, atol=1e-4)


@pytest.mark.parametrize("norm_type", ["mean_std", "quantile", "min_max"])
@given(data=st.data())
def test_every_transform_of_actions_is_undone_by_its_inverse(norm_type: str, data: Any) -> None:
    """One by one and together, as in the decoder: relative, padded, normalised, and back."""
    dims, elements = data.draw(st.integers(2, 8)), st.floats(-5, 5, width=32)
    frames = data.draw(arrays(np.float32, (12, dims), elements=elements))
    state = data.draw(arrays(np.float32, dims, elements=elements))
    actions = data.draw(arrays(np.float32, (5, dims), elements=elements))
    width = data.draw(st.integers(dims, 10))
    mask = data.draw(st.lists(st.booleans(), min_size=dims, max_size=dims))
    relative = RelativeActions(mask=tuple(mask))
    stats = compute_stats(frames).padded(width)
    transforms = [
        relative,
        PadKeyToDim(keys=("states", "actions"), dim=width),
        NormalizeStatesAndActions(norm_type=norm_type),
    ]
    sample = {"states": state, "actions": actions, "stats": {"proprio": stats, "action": stats}}
    out = apply(transforms, sample)
    assert out["actions"].shape == (5, width) and out["states"].shape == (width,)
    # In padded dimensions, zero stays zero for any statistics.
    np.testing.assert_allclose(out["actions"][:, dims:], 0.0, atol=1e-6)
    assert out["action_dim_masks"].tolist() == [True] * dims + [False] * (width - dims)
    scale, offset = DenormalizeActions(norm_type=norm_type, action_dim=dims).affine(stats)
    found = relative.inverse(out["actions"][:, :dims] * scale + offset, state)
    # Four roundings of numbers below 32.
    np.testing.assert_allclose(found, actions, atol=4 * 32 * 2.0**-24)


def test_pooled_statistics_are_those_of_all_frames_together() -> None:
    generator = np.random.default_rng(0)
    frames = generator.normal(size=(500, 14))
    stats = compute_stats(frames)
    np.testing.assert_allclose(stats.std, frames.std(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stats.q99, np.quantile(frames, 0.99, axis=0), rtol=1e-6)


def test_statistics_survive_a_file(tmp_path: Path) -> None:
    stats = {"aloha": {"action": compute_stats(np.random.default_rng(0).normal(size=(9, 3)))}}
    save_stats(tmp_path / "norm_stats.json", stats)
    assert load_stats(tmp_path / "norm_stats.json") == stats


def test_a_nan_in_the_data_names_frame_and_dimension() -> None:
    values = np.zeros((4, 2))
    values[2, 1] = np.nan
    with pytest.raises(DataError, match="got nan in frame 2, dimension 1"):
        compute_stats(values)


def test_padding_is_with_zeros_and_never_cuts() -> None:
    padded = PadKeyToDim(keys=("actions",), dim=14)({"actions": np.ones((2, 7), np.float32)})
    assert padded["actions"].shape == (2, 14) and not padded["actions"][:, 7:].any()
    with pytest.raises(ConfigError, match="expected at least 7"):
        PadKeyToDim(keys=("actions",), dim=6)({"actions": np.ones((2, 7), np.float32)})


def test_missing_statistics_are_an_error_that_lists_the_existing_ones() -> None:
    sample = {"states": np.zeros(7, np.float32), "stats": {"action": compute_stats(np.eye(7))}}
    with pytest.raises(DataError, match=r"'proprio', got \['action'\]"):
        NormalizeStatesAndActions()(sample)


def test_images_are_stretched_antialiased_and_normalised_to_siglips_range() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    sample = ResizeImages(height=30, width=40)({"images": images})
    assert sample["images"].shape == (2, 30, 40, 3)
    normalised = SimpleNormalizeImages()(sample)["images"]
    assert normalised.shape == (2, 3, 30, 40) and normalised.dtype == np.float32
    expected = sample["images"].transpose(0, 3, 1, 2) / 255.0 * 2.0 - 1.0
    np.testing.assert_allclose(normalised, expected, atol=1e-6)


def test_imagenet_normalisation_is_per_camera() -> None:
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    norm = NormalizeImages(means=((100.0,) * 3, (50.0,) * 3), stds=((10.0,) * 3, (25.0,) * 3))
    out = norm({"images": images})["images"]
    np.testing.assert_allclose(out[0], 0.0, atol=1e-5)
    np.testing.assert_allclose(out[1], 2.0, atol=1e-5)


def test_a_joint_that_hardly_moves_is_not_scaled_up() -> None:
    values = np.stack([np.linspace(-1.0, 1.0, 200), np.linspace(0.5, 0.5001, 200)], axis=1)
    stats = compute_stats(values)
    widened = stats.widened(0.1)
    for norm_type in ("quantile", "min_max"):
        scale, offset = widened.affine(norm_type)
        np.testing.assert_allclose([scale[1], offset[1]], [0.05, 0.50005], rtol=1e-4)
        assert scale[0] == stats.affine(norm_type)[0][0]
    assert widened.std[0] == stats.std[0] and widened.std[1] == pytest.approx(0.1 / 12**0.5)
    assert stats.widened(0.0) == stats


@pytest.mark.parametrize("name", ["landscape", "portrait", "square", "up"])
def test_resizing_with_padding_is_openpis(name: str, openpi: dict) -> None:
    """Bit-identical to openpi's robot client, which also processes its training data."""
    images = openpi[f"resize.{name}.input_uint8_hwc"]
    sample = ResizeImagesWithPad(height=56, width=56)({"images": images})
    np.testing.assert_array_equal(
        sample["images"], openpi[f"resize.{name}.openpi_client_pil_uint8"]
    )
    again = ResizeImagesWithPad(height=56, width=56)(sample)
    np.testing.assert_array_equal(again["images"], sample["images"])
