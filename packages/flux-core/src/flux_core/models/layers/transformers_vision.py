"""An image encoder of `transformers`: SigLIP, DINOv2, DINOv3 or ConvNeXt, pretrained or not.

Its tokens are those of the patches, without class token, registers or pooling. Images come in
[-1, 1], as for SigLIP, and are converted here to the mean and deviation of the encoder's own
preprocessing, so that training and robot cannot differ in it.

Attention is `transformers`' "sdpa" without a mask: PyTorch's fused call, which exports to two
products and a softmax. "eager" exports the same, but stores the weights of attention in training.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, ConfigError, DataError, FluxError, MissingDependencyError
from ...transforms import Rule, rules
from .vision_backbone import VisionBackbone
from .vision_families import FAMILIES, Family, family_of
from .vision_folder import PREPROCESSOR, read_config, read_pixels

AS_THEY_COME = (0.5, 0.5, 0.5)
"""Mean and deviation of pixels that are [-1, 1]."""
OF_OTHER_PARTS = (
    *("text_model.", "logit_scale", "logit_bias", "classifier."),
    *("head.", "vision_model.head."),
)
"""Weights of a folder that are not the encoder's, or that only pool its tokens."""


class TransformersVisionBackbone(VisionBackbone):
    """Images to patch features. Weights are named as in the installed `transformers`, behind
    `model.`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(VisionBackbone.Config):
        """Either `pretrained_name_or_path`, a local folder of `save_pretrained`, or `config`, what
        its `config.json` would hold, or both.

        What is not given is read from the folder, once: the config that a checkpoint holds says
        everything, so that whoever runs it needs no folder. A new training starts from the
        folder's weights, unless the whole network starts from a checkpoint.

        The size of images defaults to that of pretraining. For another one, position embeddings
        need `interpolate_positions`; their number then follows the images'. `image_mean` and
        `image_std` are of pixels from 0 to 1, and default to the folder's preprocessing, or to
        [-1, 1] without a folder.
        """

        pretrained_name_or_path: str | None = None
        config: Mapping[str, Any] | None = None
        image_height: int | None = None
        image_width: int | None = None
        image_mean: tuple[float, ...] | None = None
        image_std: tuple[float, ...] | None = None
        interpolate_positions: bool = False

        rules: ClassVar[Mapping[str, Rule]] = rules(
            "checked",
            "the network's own sizes and pixels, which come with the weights",
            *("pretrained_name_or_path", "config", "image_height", "image_width", "image_mean"),
            *("image_std", "interpolate_positions"),
        )

        def __post_init__(self) -> None:
            _fill_in(self)
            check_images(self)
            check_pixels(self)

        def build(self) -> TransformersVisionBackbone:
            return TransformersVisionBackbone(self)

        @property
        def family(self) -> Family:
            """What we know of its `model_type`."""
            return FAMILIES[self.sizes["model_type"]]

        @property
        def sizes(self) -> Mapping[str, Any]:
            """Its config, as `transformers` takes it."""
            assert self.config is not None, "filled in"
            return self.config

        @property
        def image_size(self) -> tuple[int, int]:
            assert self.image_height is not None and self.image_width is not None, "filled in"
            return self.image_height, self.image_width

        @property
        def grid(self) -> tuple[int, int]:
            """Rows and columns of its patches."""
            stride = self.family.stride(self.sizes)
            return self.image_size[0] // stride, self.image_size[1] // stride

        @property
        def num_tokens(self) -> int:
            return math.prod(self.grid)

        @property
        def out_dim(self) -> int:
            return self.family.width(self.sizes)

        @property
        def pixel_range(self) -> tuple[float, float]:
            return -1.0, 1.0

        @property
        def needs_pixel_range(self) -> bool:
            return True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = _core(_made(config))
        _own_positions(self.model, config)
        for name in config.family.unused:
            _remove(self.model, name)

    @property
    def layers(self) -> list[nn.Module]:
        """Its transformer layers or convolutional blocks."""
        name = self.config.family.layer
        # Sharded layers are of a class derived from this one.
        return [m for m in self.model.modules() if any(c.__name__ == name for c in type(m).mro())]

    def train(self, mode: bool = True) -> TransformersVisionBackbone:
        """Turns dropout and skipped layers on, but not if all of it is frozen."""
        return super().train(mode and any(each.requires_grad for each in self.parameters()))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) in [-1, 1] -> (B, num_tokens, out_dim)."""
        config = self.config
        if tuple(images.shape[-2:]) != config.image_size:
            raise DataError(
                f"images: expected {config.image_size} pixels, got {tuple(images.shape[-2:])}. "
                "Resize them first (ResizeImages), or set image_height and image_width of "
                "vision_backbone"
            )
        x = self._standardised(images)
        if config.family.steps:
            for step in config.family.steps:
                x = self.model.get_submodule(step)(x)
                x = getattr(x, "last_hidden_state", x)
        else:
            x = self.model(x).last_hidden_state
        if x.ndim == 4:
            x = x.flatten(2).transpose(1, 2)
        return x[:, config.family.skipped(config.sizes) :]

    def _standardised(self, images: Tensor) -> Tensor:
        """[-1, 1] -> zero mean and unit deviation, as in the encoder's own preprocessing."""
        means, deviations = self.config.image_mean, self.config.image_std
        assert means is not None and deviations is not None, "filled in"
        if means == deviations == AS_THEY_COME:
            return images
        # In float32, because rounded factors would change all pixels alike.
        scale = torch.tensor([0.5 / each for each in deviations], device=images.device)
        pairs = zip(means, deviations, strict=True)
        offset = torch.tensor([(0.5 - each) / by for each, by in pairs], device=images.device)
        pixels = images.float() * scale[:, None, None] + offset[:, None, None]
        return pixels.to(images.dtype)

    @torch.no_grad()
    def load_own_weights(self) -> None:
        """Fills in the folder's weights, strictly.

        Raises:
            CheckpointError: one is missing, of another shape, or no plain and finite weight.
        """
        folder = self.config.pretrained_name_or_path
        if folder is None:
            return
        found = _pretrained(self.config, Path(folder))
        for name, parameter in self.model.state_dict(keep_vars=True).items():
            value = found.get(name)
            if value is None or value.shape != parameter.shape:
                got = "none" if value is None else f"shape {tuple(value.shape)}"
                raise CheckpointError(
                    f"{folder}: {name}: expected shape {tuple(parameter.shape)}, got {got}"
                )
            parameter.copy_(_checked(name, value, folder))


def _fill_in(config: TransformersVisionBackbone.Config) -> None:
    """Reads from the folder what is not given, in place."""
    name, sizes = config.pretrained_name_or_path, config.config
    if sizes is None:
        if name is None:
            raise ConfigError(
                "pretrained_name_or_path: expected a local folder, or an explicit config, got "
                "neither"
            )
        sizes = read_config(Path(name))
    family = family_of(sizes)
    means, deviations = config.image_mean, config.image_std
    if name is not None and (config.config is None or None in (means, deviations)):
        means, deviations = _pixels_of(config, Path(name))
    elif means is None and deviations is None:
        means, deviations = AS_THEY_COME, AS_THEY_COME
    height, width = config.image_height, config.image_width
    if height is None and width is None:
        height, width = family.image_size(sizes)
    found = dict(config=_with_tuples(sizes), image_mean=means, image_std=deviations)
    for key, value in {**found, "image_height": height, "image_width": width}.items():
        object.__setattr__(config, key, value)


def _pixels_of(config: TransformersVisionBackbone.Config, folder: Path) -> tuple[Any, Any]:
    """Mean and deviation of a folder, which the config may repeat but not change."""
    read = read_pixels(folder)
    given = config.image_mean, config.image_std
    if read is None:
        if None in given:
            raise ConfigError(
                f"pretrained_name_or_path: expected {PREPROCESSOR} in {folder}, which says how its "
                "pixels are normalised, got none. Set image_mean and image_std"
            )
        return given
    for name, own, theirs in zip(("image_mean", "image_std"), given, read, strict=True):
        if own is not None and own != theirs:
            raise ConfigError(
                f"{name}: expected {list(theirs)} as in {folder / PREPROCESSOR}, got {list(own)}. "
                "The weights were trained with those"
            )
    return read


def check_images(config: TransformersVisionBackbone.Config) -> None:
    """Refuses a size of images that the encoder cannot take."""
    family, sizes = config.family, config.sizes
    stride = family.stride(sizes)
    for name in ("image_height", "image_width"):
        value = getattr(config, name)
        if value is None or value < 1 or value % stride:
            raise ConfigError(
                f"{name}: expected a multiple of {stride} (pixels per token of this encoder), got "
                f"{value}"
            )
    if family.positions is None:
        if config.interpolate_positions:
            raise ConfigError(
                "interpolate_positions: expected false, because this encoder has no position "
                "embeddings: it takes images of any size"
            )
        return
    trained = family.image_size(sizes)
    if config.image_size != trained and not config.interpolate_positions:
        raise ConfigError(
            f"image_height: expected {trained[0]} x {trained[1]} pixels, for which the position "
            f"embeddings are, got {config.image_size[0]} x {config.image_size[1]}. Set "
            "interpolate_positions=True to stretch them"
        )


def check_pixels(config: TransformersVisionBackbone.Config) -> None:
    """Refuses a mean and a deviation that are not of three channels from 0 to 1."""
    for name in ("image_mean", "image_std"):
        values = getattr(config, name)
        if values is None or len(values) != 3:
            shown = "none" if values is None else list(values)
            raise ConfigError(f"{name}: expected three numbers (RGB), got {shown}")
        # Of pixels from 0 to 255 they would be far above 1.
        is_off = not all(0.0 <= value <= 1.0 for value in values)
        if is_off or (name == "image_std" and 0.0 in values):
            raise ConfigError(
                f"{name}: expected that of pixels from 0 to 1, got {list(values)}. Divide by 255"
            )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            f"TransformersVisionBackbone needs transformers ({error}): "
            "pip install 'flux-core[torch]'"
        ) from error
    return transformers


def _class(name: str) -> Any:
    library = _transformers()
    found = getattr(library, name, None)
    if found is None:
        raise MissingDependencyError(
            f"TransformersVisionBackbone: transformers {library.__version__} has no {name}. "
            "Install a newer one"
        )
    return found


def _made(config: TransformersVisionBackbone.Config) -> nn.Module:
    """The model of `transformers` with its initial weights, for this size of images."""
    family = config.family
    more: dict[str, Any] = {}
    if family.positions is not None and family.first_patch:
        more["image_size"] = list(config.image_size)
    try:
        return _class(family.model)(_settings(config, **more))
    except FluxError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"model.vision_backbone.config: {family.model} refuses it: {reason}"
        ) from error


def _settings(config: TransformersVisionBackbone.Config, **more: Any) -> Any:
    """The config of `transformers`.

    Raises:
        ConfigError: it has no such setting, which `transformers` would ignore. A folder's may be
            of another version.
    """
    family = config.family
    sizes = {key: _listed(value) for key, value in config.sizes.items() if key != "model_type"}
    make: Any = _class(family.config)
    known = make()
    for key in sizes:
        if config.pretrained_name_or_path is None and not hasattr(known, key):
            raise ConfigError(f"model.vision_backbone.config: {family.config} has no {key!r}")
    if not family.stages:
        # How a layer attends does not depend on what a folder says: see the module's text.
        sizes["attn_implementation"] = "sdpa"
    return make(**{**sizes, **family.fixed, **more})


def _core(model: nn.Module) -> nn.Module:
    """The encoder itself, which some versions wrap."""
    return cast(nn.Module, getattr(model, "vision_model", model))


def _with_tuples(value: Any) -> Any:
    """Lists as tuples, as binding makes them."""
    if isinstance(value, Mapping):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


def _listed(value: Any) -> Any:
    """Tuples as lists, which the configs of `transformers` have everywhere."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _remove(model: nn.Module, name: str) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    old = getattr(module, leaf, None)
    setattr(module, leaf, nn.Identity() if isinstance(old, nn.Module) else None)


def _own_positions(model: Any, config: TransformersVisionBackbone.Config) -> None:
    """Fits the positions to the images, once, rather than in every forward pass.

    Theirs depend on buffers that no checkpoint holds, and that have no values in a network which
    is built on the meta device.
    """
    kind = config.sizes["model_type"]
    if kind == "siglip_vision_model":
        model.embeddings.position_embedding = AllPositions(config.num_tokens, config.out_dim)
        model.embeddings.position_ids = None
    elif config.family.positions is not None:
        model.embeddings.interpolate_pos_encoding = types.MethodType(_as_they_are, model.embeddings)
    elif kind == "dinov3_vit":
        family, sizes = config.family, config.sizes
        head_dim = config.out_dim // family.value(sizes, "num_attention_heads")
        theta = family.value(sizes, "rope_theta")
        model.rope_embeddings = PatchAngles(config.grid, head_dim, theta)


def _as_they_are(embeddings: Any, x: Tensor, height: int, width: int) -> Tensor:
    return embeddings.position_embeddings


class AllPositions(nn.Embedding):
    """Position embeddings of all patches; the positions that are asked for are ignored."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width)
        nn.init.normal_(self.weight, std=width**-0.5)

    def forward(self, input: Tensor | None) -> Tensor:
        """Returns (1, count, width)."""
        return self.weight[None]


class PatchAngles(nn.Module):
    """DINOv3's rotary angles of the patches' centres, from -1 to 1 in each direction.

    Unlike there, training does not shift or stretch the centres at random: where something is in
    an image matters to a robot.
    """

    def __init__(self, grid: tuple[int, int], head_dim: int, theta: float) -> None:
        super().__init__()
        self.grid, self.head_dim, self.theta = grid, head_dim, theta

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cos and sin, each (rows * columns, head_dim), in the type of the images."""
        like: dict[str, Any] = dict(device=pixel_values.device, dtype=torch.float32)
        rows, columns = (2 * (torch.arange(0.5, n, **like) / n) - 1 for n in self.grid)
        centres = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        frequencies = 1 / self.theta ** torch.arange(0, 1, 4 / self.head_dim, **like)
        angles = (2 * math.pi * centres[:, :, None] * frequencies).flatten(1, 2).tile(2)
        return angles.cos().to(pixel_values.dtype), angles.sin().to(pixel_values.dtype)


def _pretrained(config: TransformersVisionBackbone.Config, folder: Path) -> Mapping[str, Tensor]:
    """Weights of a folder under the names of the installed version, which renames older ones."""
    family = config.family
    try:
        model, report = _class(family.model).from_pretrained(
            folder,
            config=_settings(config),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except FluxError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: cannot be loaded as {family.model} ({reason})") from error
    core = _core(model)
    found = dict(core.state_dict())
    prefix = "" if core is model else "vision_model."
    spare = [name for name in report["unexpected_keys"] if not name.startswith(OF_OTHER_PARTS)]
    if spare:
        raise CheckpointError(f"{folder}: {sorted(spare)[0]} is unexpected in a {family.model}")
    lost = {name.removeprefix(prefix) for name in report["missing_keys"]}
    lost |= {str(entry[0]).removeprefix(prefix) for entry in report["mismatched_keys"]}
    for name in lost:
        found.pop(name, None)
    if family.positions is not None and family.positions in found:
        found[family.positions] = _stretched(core, family, found[family.positions], config)
    return found


def _stretched(
    model: Any, family: Family, positions: Tensor, config: TransformersVisionBackbone.Config
) -> Tensor:
    """Position embeddings for this size of images, by the encoder's own interpolation."""
    if config.image_size == family.image_size(config.sizes):
        return positions
    patches = torch.zeros(1, config.num_tokens + family.first_patch, config.out_dim)
    found: Tensor = model.embeddings.float().interpolate_pos_encoding(patches, *config.image_size)
    return found if positions.ndim == found.ndim else found[0]


def _checked(name: str, value: Tensor, where: str) -> Tensor:
    if not value.is_floating_point() or value.itemsize < 2:
        raise CheckpointError(
            f"{where}: {name}: expected weights of a floating-point type, got {value.dtype}"
        )
    if not torch.isfinite(value).all():
        raise CheckpointError(f"{where}: {name}: expected finite weights, got others")
    return value
