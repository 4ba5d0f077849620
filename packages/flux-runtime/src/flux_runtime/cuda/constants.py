"""The constants of a plan: each weight as its kernel reads it, from the tensors of a bundle.

Norm scales become part of the next weight, biases and time parts become tables, and the last
projection gives -velocity / N, which is what an Euler step adds.
"""

from __future__ import annotations

from dataclasses import dataclass

from .builder import PlanBuilder
from .description import EXPERT, PREFIX, VISION, PiDescription, Stream
from .plan import Pointer
from .recipes import (
    Applied,
    Chained,
    Columns,
    PatchRows,
    Recipe,
    Rows,
    RowSums,
    Scaled,
    Stored,
    Sum,
    Values,
)

QKV = ("q_proj", "k_proj", "v_proj")
Layer = tuple[Pointer, Pointer]
"""Weight and bias."""
NormedLayer = tuple[Pointer, Pointer, Pointer]
"""Weight, bias, and the sums of the weight's rows."""


@dataclass(frozen=True, kw_only=True)
class VisionBlock:
    """The layers of a block of the vision tower, in order."""

    qkv: NormedLayer
    out: Layer
    fc1: NormedLayer
    fc2: Layer


@dataclass(frozen=True, kw_only=True)
class PrefixBlock:
    """The weights of a Gemma block, with its norms' scales."""

    qkv: Pointer
    out: Pointer
    gate: Pointer
    up: Pointer
    down: Pointer


@dataclass(frozen=True, kw_only=True)
class ExpertBlock(PrefixBlock):
    """A block of the expert; with adaptive norms, what depends on the time is in tables.

    Attributes:
        input_scale, mlp_scale: (times, width) of the norms.
        qkv_bias: (times, rows of `qkv`).
        mlp_biases: (times, mlp) of gate and up.
        attention_gate, mlp_gate: (times, width) of the residuals.
    """

    input_scale: Pointer | None = None
    qkv_bias: Pointer | None = None
    attention_gate: Pointer | None = None
    mlp_scale: Pointer | None = None
    mlp_biases: tuple[Pointer, Pointer] | None = None
    mlp_gate: Pointer | None = None


class Constants:
    """Adds constants to a plan; a constant that is asked for twice is added once."""

    def __init__(self, description: PiDescription, builder: PlanBuilder) -> None:
        self._net, self._builder = description, builder
        self._times = description.num_inference_steps + 1

    def image_affine(self) -> Layer:
        """Scale and offset of the pixels, (cameras, 3)."""
        net, add = self._net, self._builder.constant
        shape = (len(net.image_scale), 3)
        scale = add("image_scale", Values(rows=net.image_scale), *shape, dtype="fp32")
        return scale, add("image_offset", Values(rows=net.image_offset), *shape, dtype="fp32")

    def patches(self) -> Layer:
        """The patch embedding, and the table that is added to it."""
        tower, add = self._net.tower, self._builder.constant
        name = f"{VISION}embeddings."
        rows = PatchRows(of=Stored(name=f"{name}patch_embedding.weight"), padded=tower.padded_patch)
        weight = add("patches.weight", rows, tower.width, tower.padded_patch)
        position = Stored(name=f"{name}position_embedding.weight")
        table = Sum(parts=(position, Stored(name=f"{name}patch_embedding.bias")))
        return weight, add("patches.table", table, tower.tokens, tower.width, dtype="fp32")

    def vision_block(self, layer: int) -> VisionBlock:
        """The weights of a block of the vision tower."""
        tower = self._net.tower
        name, to, width = f"{VISION}encoder.layers.{layer}.", f"vision.{layer}.", tower.width
        weight = self._qkv(f"{name}self_attn.", "weight")
        bias = self._qkv(f"{name}self_attn.", "bias")
        fc1, fc2, out = f"{name}mlp.fc1.", f"{name}mlp.fc2.", f"{name}self_attn.out_proj."
        return VisionBlock(
            qkv=self._behind_layer_norm(f"{to}qkv", weight, bias, f"{name}layer_norm1.", width * 3),
            out=self._plain(f"{to}out", out, width, width),
            fc1=self._behind_layer_norm(
                f"{to}fc1", *_weight_and_bias(fc1), f"{name}layer_norm2.", tower.mlp
            ),
            fc2=self._plain(f"{to}fc2", fc2, width, tower.mlp),
        )

    def projector(self) -> NormedLayer:
        """From the vision tower's last norm to the prefix."""
        layer = _weight_and_bias("projector.projector.")
        norm = f"{VISION}post_layernorm."
        return self._behind_layer_norm("projector", *layer, norm, self._net.prefix.width)

    def embedding(self) -> Pointer:
        """The words, (vocabulary, width)."""
        net = self._net
        words = Stored(name=f"{PREFIX}embed_tokens.weight")
        return self._builder.constant("words.weight", words, net.vocabulary, net.prefix.width)

    def angles(self, is_suffix: bool) -> Pointer:
        """Cos beside sin of every position."""
        part, net = EXPERT if is_suffix else PREFIX, self._net
        table = Stored(name=f"{part}angles.table")
        shape = (net.positions, net.head_dim)
        return self._builder.constant(f"{part}angles", table, *shape, dtype="fp32")

    def prefix_block(self, layer: int) -> PrefixBlock:
        """The weights of a block of the language stream."""
        return PrefixBlock(**self._block(PREFIX, layer, self._net.prefix))

    def expert_block(self, layer: int) -> ExpertBlock:
        """The weights and tables of a block of the expert."""
        weights = self._block(EXPERT, layer, self._net.expert)
        if not self._net.adaptive:
            return ExpertBlock(**weights)
        name, to = f"{EXPERT}layers.{layer}.", f"{EXPERT}{layer}."
        width = self._net.expert.width
        before, behind = f"{name}input_layernorm.", f"{name}post_attention_layernorm."
        qkv = self._qkv(f"{name}self_attn.", "weight")
        gate, up = (Stored(name=f"{name}mlp.{part}_proj.weight") for part in ("gate", "up"))
        rows, mlp = self._net.qkv_rows, self._net.expert.mlp
        return ExpertBlock(
            **weights,
            input_scale=self._by_time(f"{to}input_scale", _scale(before, width), width),
            qkv_bias=self._by_time(f"{to}qkv_bias", _shifted(qkv, before, width), rows),
            attention_gate=self._by_time(f"{to}attention_gate", _gate(before, width), width),
            mlp_scale=self._by_time(f"{to}mlp_scale", _scale(behind, width), width),
            mlp_biases=(
                self._by_time(f"{to}gate_bias", _shifted(gate, behind, width), mlp),
                self._by_time(f"{to}up_bias", _shifted(up, behind, width), mlp),
            ),
            mlp_gate=self._by_time(f"{to}mlp_gate", _gate(behind, width), width),
        )

    def state(self) -> Layer:
        """From the state to its token."""
        net = self._net
        return self._plain("state", "state_proj.projector.", net.expert.width, net.state_dim, True)

    def action_in(self) -> Layer:
        """pi0.5: from x_t to tokens."""
        net = self._net
        width = net.expert.width
        return self._plain("action_in", "action_in_proj.projector.", width, net.action_dim, True)

    def action_and_time(self) -> Layer:
        """pi0: from x_t to the hidden layer of its MLP, and the bias of each time."""
        net, width = self._net, self._net.expert.width
        into_weight, into_bias = _weight_and_bias("action_in_proj.projector.")
        weight, bias = _weight_and_bias("action_time_mlp_in.projector.")
        of_action = Columns(of=weight, first=0, end=width)
        of_time = Columns(of=weight, first=width, end=2 * width)
        times = Applied(weight=of_time, rows=Stored(name="time_embedding.1.table"))
        actions = Applied(weight=of_action, rows=into_bias)
        chained = Chained(outer=of_action, inner=into_weight)
        shape = (width, net.action_dim)
        first = self._builder.constant("action_and_time.weight", chained, *shape, dtype="fp32")
        table = Sum(parts=(times, actions, bias))
        return first, self._by_time("action_and_time.bias", table, width)

    def action_time_out(self) -> Layer:
        """pi0: from the hidden layer to tokens."""
        width = self._net.expert.width
        return self._plain("action_time_out", "action_time_mlp_out.projector.", width, width, True)

    def velocity(self) -> tuple[Pointer, Pointer, Pointer | None]:
        """Weight, bias and norm scale of -velocity / N."""
        net, width = self._net, self._net.expert.width
        weight, bias = _weight_and_bias("action_out_proj.projector.")
        by, norm = -1.0 / net.num_inference_steps, f"{EXPERT}norm."
        if net.adaptive:
            scale = self._by_time("velocity.scale", _scale(norm, width), width)
            table = Scaled(of=Sum(parts=(_shifted(weight, norm, width), bias)), by=by)
            rows = self._by_time("velocity.bias", table, net.action_dim)
            scaled = Scaled(of=weight, by=by)
        else:
            scale = None
            rows = self._builder.constant(
                "velocity.bias", Scaled(of=bias, by=by), net.action_dim, dtype="fp32"
            )
            scaled = Scaled(of=weight, columns=_one_plus(f"{norm}weight"), by=by)
        shape = (net.action_dim, width)
        return self._builder.constant("velocity.weight", scaled, *shape, dtype="fp32"), rows, scale

    def _block(self, part: str, layer: int, stream: Stream) -> dict[str, Pointer]:
        """The five weights of a Gemma block."""
        net, name, to = self._net, f"{part}layers.{layer}.", f"{part}{layer}."
        width, mlp, mixed = stream.width, stream.mlp, self._net.heads * self._net.head_dim
        adaptive = net.adaptive and part == EXPERT

        def normed(weight: Recipe, norm: str) -> Recipe:
            return weight if adaptive else Scaled(of=weight, columns=_one_plus(norm))

        def stored(matrix: str) -> Recipe:
            return Stored(name=f"{name}{matrix}.weight")

        before = f"{name}input_layernorm.weight"
        behind = f"{name}post_attention_layernorm.weight"
        qkv = normed(self._qkv(f"{name}self_attn.", "weight"), before)
        add = self._builder.constant
        return {
            "qkv": add(f"{to}qkv.weight", qkv, net.qkv_rows, width),
            "out": add(f"{to}out.weight", stored("self_attn.o_proj"), width, mixed),
            "gate": add(f"{to}gate.weight", normed(stored("mlp.gate_proj"), behind), mlp, width),
            "up": add(f"{to}up.weight", normed(stored("mlp.up_proj"), behind), mlp, width),
            "down": add(f"{to}down.weight", stored("mlp.down_proj"), width, mlp),
        }

    def _qkv(self, name: str, kind: str) -> Recipe:
        if self._net.packed:
            return Stored(name=f"{name}packed.qkv_proj.{kind}")
        return Rows(parts=tuple(Stored(name=f"{name}{part}.{kind}") for part in QKV))

    def _plain(self, to: str, name: str, rows: int, columns: int, wide: bool = False) -> Layer:
        """A layer as it is; `wide` keeps its weight in float32."""
        weight, bias = _weight_and_bias(name)
        dtype = "fp32" if wide else None
        matrix = self._builder.constant(f"{to}.weight", weight, rows, columns, dtype=dtype)
        return matrix, self._builder.constant(f"{to}.bias", bias, rows, dtype="fp32")

    def _behind_layer_norm(
        self, to: str, weight: Recipe, bias: Recipe, norm: str, rows: int
    ) -> NormedLayer:
        """A layer with the layer norm before it."""
        builder, width = self._builder, self._net.tower.width
        scaled = Scaled(of=weight, columns=Stored(name=f"{norm}weight"))
        shifted = Sum(parts=(bias, Applied(weight=weight, rows=Stored(name=f"{norm}bias"))))
        sums = RowSums(of=scaled, dtype="bf16" if builder.dtype == "bf16" else "fp32")
        return (
            builder.constant(f"{to}.weight", scaled, rows, width),
            builder.constant(f"{to}.bias", shifted, rows, dtype="fp32"),
            builder.constant(f"{to}.sums", sums, rows, dtype="fp32"),
        )

    def _by_time(self, to: str, recipe: Recipe, width: int) -> Pointer:
        return self._builder.constant(to, recipe, self._times, width, dtype="fp32")


def _weight_and_bias(name: str) -> tuple[Recipe, Recipe]:
    return Stored(name=f"{name}weight"), Stored(name=f"{name}bias")


def _one_plus(name: str) -> Recipe:
    return Sum(parts=(Stored(name=name),), plus=1.0)


def _third(norm: str, width: int, number: int) -> Recipe:
    """Scale (0), shift (1) or gate (2) of an adaptive norm, (times, width)."""
    table = Stored(name=f"{norm}dense.table")
    return Columns(of=table, first=number * width, end=(number + 1) * width)


def _scale(norm: str, width: int) -> Recipe:
    return Sum(parts=(_third(norm, width, 0),), plus=1.0)


def _shifted(weight: Recipe, norm: str, width: int) -> Recipe:
    """(times, rows of the weight): what the weight makes of the norm's shift."""
    return Applied(weight=weight, rows=_third(norm, width, 1))


def _gate(norm: str, width: int) -> Recipe:
    return _third(norm, width, 2)
