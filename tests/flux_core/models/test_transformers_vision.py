"""Image encoders of `transformers` as vision backbones: parity with `transformers` itself, and what
is refused before a run starts."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from flux_core.config import bind, unbind
from flux_core.errors import CheckpointError, ConfigError, DataError, FluxError
from flux_core.models import FlowPolicy
from flux_core.models.layers import TransformersVisionBackbone, VisionBackbone
from flux_core.models.layers.vision_folder import ABOUT_FILES
from flux_core.models.weights.lora import apply_lora
from flux_core.transforms import ModelInputs, NormalizeImages, SimpleNormalizeImages
from flux_runtime.export.precision.network import Precision, compute_dtype, set_precision
from flux_train.distributed.parallel import recompute

from ...vision_towers import (
    CONFIGS,
    STATISTICS,
    WIDTH,
    in_our_range,
    network_tree,
    patches,
    preprocessor,
    randomise,
    reference,
    section,
    some_images,
    standardised,
    weights_of,
)

WITH_POSITIONS = ("siglip_vision_model", "dinov2", "dinov2_with_registers")
each_kind = pytest.mark.parametrize("kind", CONFIGS)


def config_of(tree: dict[str, Any]) -> TransformersVisionBackbone.Config:
    return bind(VisionBackbone.Config, tree, "model.vision_backbone")


def with_weights(tree: dict[str, Any], theirs: Any) -> TransformersVisionBackbone:
    """A backbone with their weights, except those that no patch depends on."""
    model = config_of(tree).build().eval()
    found = model.model.load_state_dict(weights_of(theirs), strict=False)
    assert found.missing_keys == []
    assert all(k.startswith(("embeddings.mask", "head.", "layernorm.")) for k in found[1])
    return model


@each_kind
@torch.no_grad()
def test_tokens_are_those_of_transformers(kind: str) -> None:
    theirs, images = reference(kind), some_images(2)
    found = with_weights(section(kind), theirs)(in_our_range(images))
    assert found.shape == (2, 16, WIDTH)
    torch.testing.assert_close(
        found, patches(kind, theirs, standardised(images)), atol=2e-5, rtol=1e-5
    )


@each_kind
@torch.no_grad()
def test_images_of_another_size_are_those_of_transformers_too(kind: str, tmp_path: Path) -> None:
    """Wide ones; position embeddings are stretched once, when they are loaded."""
    theirs, images = reference(kind), some_images(1, 24, 40)
    theirs.save_pretrained(tmp_path)
    more = dict(pretrained_name_or_path=str(tmp_path), interpolate_positions=kind in WITH_POSITIONS)
    model = config_of(section(kind, 24, 40, **more)).build().eval()
    model.load_own_weights()
    found = model(in_our_range(images))
    expected = patches(kind, theirs, standardised(images), stretched=True)
    assert found.shape == (1, 15, WIDTH)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


class Theirs(VisionBackbone):
    """`transformers`' own model and preprocessing in place of ours."""

    def __init__(self, kind: str, model: nn.Module) -> None:
        super().__init__()
        self.kind, self.model = kind, model

    def forward(self, images: Tensor) -> Tensor:
        pixels = ((images + 1) / 2 * 255).round().to(torch.uint8)
        return patches(self.kind, self.model, standardised(pixels))


NETWORKS = ("pi0", "pi05", "gr00t")


def built(network: str, kind: str, **settings: Any) -> FlowPolicy:
    torch.manual_seed(0)
    tree = network_tree(network, section(kind)) | settings
    return bind(FlowPolicy.Config, tree, "model").build().eval()


@pytest.mark.parametrize("network", NETWORKS)
@each_kind
@torch.no_grad()
def test_a_network_sees_what_transformers_sees(network: str, kind: str) -> None:
    model = built(network, kind)
    randomise(model.vision_backbone)
    theirs = copy.deepcopy(model)
    other = reference(kind)
    core = getattr(other, "vision_model", other)
    core.load_state_dict(model.vision_backbone.model.state_dict(), strict=False)
    theirs.vision_backbone = Theirs(kind, other)
    images = in_our_range(some_images(2)).unflatten(0, (2, 1))
    tokens = torch.randint(0, 200, (2, 12))
    if network == "gr00t":
        places = model.config.image_places
        tokens = torch.cat((tokens, torch.full((2, 16), places.token_id), tokens[:, :1]), dim=1)
    masks = torch.ones_like(tokens, dtype=torch.bool)
    batch = (images, torch.ones(2, 1, dtype=torch.bool), tokens, masks)
    ours, expected = model.prefix(*batch), theirs.prefix(*batch)
    for one, two in zip(
        (*ours.keys, *ours.values), (*expected.keys, *expected.values), strict=True
    ):
        torch.testing.assert_close(one, two, atol=5e-5, rtol=1e-4)


def saved(folder: Path, kind: str = "dinov2", **settings: Any) -> Any:
    """A folder of `save_pretrained`, with a preprocessor of `transformers`."""
    model = reference(kind, **settings)
    model.save_pretrained(folder)
    processor = preprocessor("BitImageProcessor")(**STATISTICS)
    processor.save_pretrained(folder)
    return model


@torch.no_grad()
def test_a_folder_says_everything_once(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    theirs = saved(folder)
    tree = dict(type="TransformersVisionBackbone", pretrained_name_or_path=str(folder))
    config = config_of(tree)
    assert config.image_size == (32, 32) and config.num_tokens == 16 and config.out_dim == WIDTH
    assert config.image_mean == tuple(STATISTICS["image_mean"])
    model = config.build().eval()
    model.load_own_weights()
    images = some_images(2)
    processor = preprocessor("BitImageProcessor").from_pretrained(folder)
    settings = dict(do_resize=False, do_center_crop=False, return_tensors="pt")
    pixels = processor(list(images), **settings)["pixel_values"]
    expected = patches("dinov2", theirs, pixels)
    torch.testing.assert_close(model(in_our_range(images)), expected, atol=2e-5, rtol=1e-5)

    # A checkpoint's config needs no folder, on the meta device either.
    shutil.rmtree(folder)
    again = config_of(json.loads(json.dumps(unbind(config))))
    assert again == config
    with torch.device("meta"):
        late = again.build().eval()
    late.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(late(in_our_range(images)), model(in_our_range(images)))


@each_kind
@torch.no_grad()
def test_nothing_but_weights_is_needed_after_the_meta_device(kind: str) -> None:
    model = config_of(section(kind)).build().eval()
    with torch.device("meta"):
        late = config_of(section(kind)).build().eval()
    late.load_state_dict(model.state_dict(), assign=True)
    assert not any(each.is_meta for each in (*late.parameters(), *late.buffers()))
    images = in_our_range(some_images(1))
    assert torch.equal(late(images), model(images))


def test_the_encoder_of_a_model_of_images_and_text_is_taken(tmp_path: Path) -> None:
    """As SigLIP's folders are, and those of SigLIP 2 with a fixed resolution."""
    text = dict(hidden_size=24, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    vision = CONFIGS["siglip_vision_model"]
    config = transformers.SiglipConfig(vision_config=vision, text_config={**text, "vocab_size": 40})
    torch.manual_seed(0)
    both = transformers.SiglipModel(config).eval()
    both.save_pretrained(tmp_path)
    halves = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    preprocessor("SiglipImageProcessor")(**halves).save_pretrained(tmp_path)
    # As a processor with a tokenizer writes it.
    file = tmp_path / "preprocessor_config.json"
    part = json.loads(file.read_text())
    file.rename(tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": part})
    )
    ours = config_of(dict(type="TransformersVisionBackbone", pretrained_name_or_path=str(tmp_path)))
    assert ours.sizes["model_type"] == "siglip_vision_model"
    assert ours.image_mean == ours.image_std == (0.5, 0.5, 0.5)
    model = ours.build().eval()
    model.load_own_weights()
    pixels = in_our_range(some_images(1))
    with torch.no_grad():
        expected = both.vision_model(pixels).last_hidden_state
        torch.testing.assert_close(model(pixels), expected, atol=1e-5, rtol=1e-5)


def plain(**settings: Any) -> dict[str, Any]:
    return section("dinov2") | settings


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            plain(config={"model_type": "clip_vision_model"}),
            r"config.model_type: expected one of siglip_vision_model, .*, got 'clip_vision_model'",
        ),
        (plain(config={"hidden_size": 8}), "config.model_type: missing"),
        (
            plain(config={"model_type": "convnext", "num_channels": 1}),
            "config.num_channels: expected 3",
        ),
        (
            plain(config={"model_type": "dinov2", "patch_size": [8, 4]}),
            "config.patch_size: expected square patches, got .8, 4.",
        ),
        (
            plain(config={"model_type": "dinov2", "patch_size": 0}),
            "config.patch_size: expected at least 1, got 0",
        ),
        (
            plain(config={"model_type": "convnext", "hidden_sizes": []}),
            "config.hidden_sizes: expected at least one stage, got none",
        ),
        (plain(image_height=30), "image_height: expected a multiple of 8 .*, got 30"),
        (
            plain(image_width=40),
            "image_height: expected 32 x 32 pixels, .*, got 32 x 40. Set interpolate_positions",
        ),
        (
            section("convnext", 32, 36),
            "image_width: expected a multiple of 8 .*, got 36",
        ),
        (
            section("dinov3_vit", interpolate_positions=True),
            "interpolate_positions: expected false, because this encoder has no position",
        ),
        (
            plain(image_mean=[124.0, 116.0, 104.0]),
            "image_mean: expected that of pixels from 0 to 1, got .124.0",
        ),
        (plain(image_std=[0.5]), "image_std: expected three numbers"),
        (plain(image_std=[0.5, 0.0, 0.5]), "image_std: expected that of pixels from 0 to 1"),
        (plain(config=None), "pretrained_name_or_path: expected a local folder, or an explicit"),
        (
            plain(config=None, pretrained_name_or_path="facebook/dinov2-base"),
            "pretrained_name_or_path: expected a local folder of save_pretrained, got facebook",
        ),
    ],
)
def test_an_impossible_setting_is_refused_in_one_line(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^model.vision_backbone.{message}") as caught:
        config_of(tree)
    assert "\n" not in str(caught.value)


def changed(folder: Path, name: str, **settings: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_an_incomplete_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    saved(whole)
    number = 0

    def folder() -> Path:
        nonlocal number
        number += 1
        return Path(shutil.copytree(whole, tmp_path / str(number)))

    def refused(
        place: Path, message: str, error: type[FluxError] = ConfigError, **more: Any
    ) -> None:
        tree = dict(type="TransformersVisionBackbone", pretrained_name_or_path=str(place), **more)
        with pytest.raises(error, match=message) as caught:
            config_of(tree).build().load_own_weights()
        assert "\n" not in str(caught.value)

    for name in ("config.json", "model.safetensors"):
        (place := folder()).joinpath(name).unlink()
        refused(place, f"expected {name}")
    (place := folder()).joinpath("preprocessor_config.json").unlink()
    refused(place, "expected preprocessor_config.json in .*. Set image_mean and image_std")
    refused(whole, "image_mean: expected .0.485, .* as in", image_mean=[0.5] * 3)
    changed(place := folder(), "preprocessor_config.json", rescale_factor=1.0)
    refused(place, "rescale_factor: expected 1/255, got 1.0")
    changed(place := folder(), "config.json", quantization_config={"bits": 4})
    refused(place, "quantization_config: expected plain weights")
    # Weights of another network than the config's.
    changed(place := folder(), "config.json", num_hidden_layers=3)
    refused(place, "expected shape .*, got none", CheckpointError)
    changed(place := folder(), "config.json", num_hidden_layers=1)
    refused(place, "is unexpected in a Dinov2Model", CheckpointError)
    broken = reference("dinov2")
    broken.state_dict()["layernorm.weight"][3] = float("nan")
    broken.save_pretrained(place := folder())
    refused(place, "layernorm.weight: expected finite weights", CheckpointError)


def test_a_misspelt_setting_is_refused_and_so_is_what_the_library_refuses() -> None:
    config = section("convnext")["config"]
    wrong = config_of(section("convnext", config={**config, "hiden_sizes": [8]}))
    with pytest.raises(ConfigError, match="ConvNextConfig has no 'hiden_sizes'"):
        wrong.build()
    sizes = {"model_type": "dinov2", **CONFIGS["dinov2"]}
    with pytest.raises(ConfigError, match=r"model.vision_backbone.config: \w+ refuses it"):
        config_of(section("dinov2", config={**sizes, "hidden_act": "none"})).build()
    with pytest.raises(ConfigError, match=r"config.num_attention_heads: expected int, got 'two'"):
        config_of(section("dinov2", config={**sizes, "num_attention_heads": "two"}))


@each_kind
def test_a_setting_of_a_wrong_type_is_refused_in_every_family(kind: str) -> None:
    """Before `transformers` is asked, which gives the settings that there are."""
    others = transformers.PretrainedConfig().to_dict().keys() | ABOUT_FILES
    defaults = type(reference(kind).config)().to_dict()
    tried = {key: value for key, value in defaults.items() if key not in others}
    assert len(tried) > 8
    for key, value in tried.items():
        wrong = 3.5 if isinstance(value, str | bool) else "wrong"
        tree = section(kind, config={"model_type": kind, **CONFIGS[kind], key: wrong})
        with pytest.raises(ConfigError, match=f"^model.vision_backbone.config.{key}: expected "):
            config_of(tree)


def test_images_of_another_size_are_refused() -> None:
    model = config_of(section("convnext")).build()
    with pytest.raises(DataError, match=r"images: expected \(32, 32\) pixels, got \(24, 40\)"):
        model(torch.zeros(1, 3, 24, 40))


def test_pixels_that_are_not_from_minus_one_to_one_are_refused() -> None:
    config = bind(FlowPolicy.Config, network_tree("pi05", section("dinov2")), "model")
    inputs = ModelInputs(
        image_size=config.image_size,
        action_dim=config.action_dim,
        pixel_range=config.pixel_range,
        needs_pixel_range=config.needs_pixel_range,
    )
    SimpleNormalizeImages().check_model(inputs, "transforms.4")
    half = ((127.5,) * 3,)
    NormalizeImages(means=half, stds=half).check_model(inputs, "transforms.4")
    theirs = NormalizeImages(means=((124.0, 116.0, 104.0),), stds=((58.0, 57.0, 57.0),))
    with pytest.raises(ConfigError, match="transforms.4: expected pixels from -1 to 1, because"):
        theirs.check_model(inputs, "transforms.4")


@each_kind
def test_every_layer_is_found_and_all_weights_learn(kind: str) -> None:
    model = built("pi05", kind)
    blocks = model.vision_backbone.layers
    assert len(blocks) == sum(CONFIGS[kind].get("depths", [2]))
    assert {id(each) for each in blocks} <= {id(each) for each in model.layers}
    inside = {name for block in blocks for name, _ in block.named_parameters()}
    assert any(name.endswith("weight") for name in inside)
    model.train()
    model.vision_backbone(in_our_range(some_images(2))).square().sum().backward()
    still = [name for name, p in model.vision_backbone.named_parameters() if p.grad is None]
    assert still == []


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.99), ("int8", 0.999)])
@each_kind
@torch.no_grad()
def test_a_bundles_precisions_fit_the_encoder(
    kind: str, precision: Precision, least: float
) -> None:
    model, images = built("pi05", kind), in_our_range(some_images(1))
    expected = model.vision_backbone(images)
    set_precision(model, precision)
    found = model.vision_backbone(images.to(compute_dtype(precision)))
    assert found.dtype == compute_dtype(precision)
    alike = torch.cosine_similarity(found.float().flatten(), expected.flatten(), dim=0)
    assert alike > least


@each_kind
def test_recomputed_layers_have_the_same_gradients(kind: str) -> None:
    model, images = config_of(section(kind)).build().train(), in_our_range(some_images(1))
    randomise(model)
    other = copy.deepcopy(model)
    recompute(other.layers)
    for each in (model, other):
        each(images).square().mean().backward()
    pairs = zip(model.named_parameters(), other.named_parameters(), strict=True)
    for (name, ours), (_, theirs) in pairs:
        assert ours.grad is not None and theirs.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_frozen_backbone_is_frozen_and_drops_nothing() -> None:
    config = {**CONFIGS["dinov2"], "model_type": "dinov2", "hidden_dropout_prob": 0.5}
    vision = section("dinov2", config=config)
    tree = network_tree("pi05", vision) | {"freeze_vision_backbone": True}
    model = bind(FlowPolicy.Config, tree, "model").build().train()
    assert not any(p.requires_grad for p in model.vision_backbone.parameters())
    images = in_our_range(some_images(1))
    assert torch.equal(model.vision_backbone(images), model.vision_backbone(images))
    learned = config_of(vision).build().train()
    assert not torch.equal(learned(images), learned(images))


def test_adapters_reach_the_backbones_linear_layers_and_no_convolution() -> None:
    model = built("pi05", "convnext", use_lora=True, lora_target_modules=("pwconv1", "pwconv2"))
    apply_lora(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name and "vision_backbone" in name for name in trained)
    wrong = built("pi05", "convnext", use_lora=True, lora_target_modules=("dwconv",))
    with pytest.raises(ConfigError, match="expected linear layers, but 'dwconv' reaches .*Conv2d"):
        apply_lora(wrong)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_projector_must_fit_the_encoder(network: str) -> None:
    tree = network_tree(network, section("convnext"))
    tree["projector"] = dict(tree["projector"], in_dim=64)
    with pytest.raises(ConfigError, match=f"projector.in_dim: expected {WIDTH} to fit"):
        bind(FlowPolicy.Config, tree, "model")
