"""The constants of a plan: each weight as its kernel reads it, from the tensors of a bundle.

Norm scales become part of the next weight, biases and time parts become tables, and the last
projection gives -velocity / N, which is what an Euler step adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..plan import Pointer
from ..recipes import (
    Applied,
    Chained,
    ColumnRange,
    PatchRows,
    Recipe,
    Rows,
    RowSums,
    Scaled,
    Stored,
    Sum,
    Values,
)
from .builder import PlanBuilder
from .description import EXPERT, PREFIX, VISION, GemmaSizes, PiDescription
from .launches import Adaptive, Linear

QKV = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True, kw_only=True)
class VisionBlock:
    """The layers of a block of the vision tower, in order."""

    qkv: Linear
    out: Linear
    fc1: Linear
    fc2: Linear


@dataclass(frozen=True, kw_only=True)
class PrefixBlock:
    """The weights of a Gemma block; the scales of plain norms are part of them."""

    qkv: Pointer
    out: Linear
    gate: Pointer
    up: Pointer
    down: Linear


@dataclass(frozen=True, kw_only=True)
class ExpertBlock(PrefixBlock):
    """A block of the expert; the rest is there if its norms are adaptive.

    Attributes:
        before_attention, before_mlp: the norms.
        attention_gate, mlp_gate: (times, width) of the residuals.
    """

    before_attention: Adaptive | None = None
    attention_gate: Pointer | None = None
    before_mlp: Adaptive | None = None
    mlp_gate: Pointer | None = None


class Constants:
    """Adds constants to a plan; a constant that is asked for twice is added once."""

    def __init__(self, description: PiDescription, builder: PlanBuilder) -> None:
        self._net, self._builder = description, builder
        self._times = description.num_inference_steps + 1

    def image_affine(self) -> tuple[Pointer, Pointer]:
        """Scale and offset of the pixels, (cameras, 3)."""
        net, add = self._net, self._builder.constant
        shape = (len(net.image_scale), 3)
        scale = add("image_scale", Values(rows=net.image_scale), *shape, dtype="fp32")
        return scale, add("image_offset", Values(rows=net.image_offset), *shape, dtype="fp32")

    def patches(self) -> tuple[Pointer, Pointer]:
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

    def projector(self) -> Linear:
        """From the vision tower's last norm to the prefix."""
        layer = _weight_and_bias("projector.projector.")
        norm = f"{VISION}post_layernorm."
        return self._behind_layer_norm("projector", *layer, norm, self._net.prefix.width)

    def embedding(self) -> Pointer:
        """The words, (vocabulary, width)."""
        net = self._net
        words = Stored(name=f"{PREFIX}embed_tokens.weight")
        return self._builder.constant("words.weight", words, net.vocabulary, net.prefix.width)

    def angles(self, stream: Literal["prefix", "expert"]) -> Pointer:
        """Cos beside sin of every position."""
        part = {"prefix": PREFIX, "expert": EXPERT}[stream]
        table, shape = Stored(name=f"{part}angles.table"), (self._net.positions, self._net.head_dim)
        return self._builder.constant(f"{stream}.angles", table, *shape, dtype="fp32")

    def prefix_block(self, layer: int) -> PrefixBlock:
        """The weights of a block of the language stream."""
        return PrefixBlock(**self._block(PREFIX, layer, self._net.prefix))

    def expert_block(self, layer: int) -> ExpertBlock:
        """The weights and tables of a block of the expert."""
        net, stream = self._net, self._net.expert
        weights = self._block(EXPERT, layer, stream)
        if not net.adaptive:
            return ExpertBlock(**weights)
        name, to = f"{EXPERT}layers.{layer}.", f"expert.{layer}."
        before, behind = f"{name}input_layernorm.", f"{name}post_attention_layernorm."
        qkv = self._qkv(f"{name}self_attn.", "weight")
        gate, up = (Stored(name=f"{name}mlp.{part}_proj.weight") for part in ("gate", "up"))
        return ExpertBlock(
            **weights,
            before_attention=self._adaptive(f"{to}qkv", before, {"qkv": qkv}, net.qkv_rows),
            attention_gate=self._gate(f"{to}attention_gate", before),
            before_mlp=self._adaptive(f"{to}mlp", behind, {"gate": gate, "up": up}, stream.mlp),
            mlp_gate=self._gate(f"{to}mlp_gate", behind),
        )

    def state(self) -> Linear:
        """From the state to its token."""
        net = self._net
        return self._plain("state", "state_proj.projector.", net.expert.width, net.state_dim, True)

    def action_in(self) -> Linear:
        """pi0.5: from x_t to tokens."""
        net = self._net
        width = net.expert.width
        return self._plain("action_in", "action_in_proj.projector.", width, net.action_dim, True)

    def action_and_time(self) -> Linear:
        """pi0: from x_t to the hidden layer of its MLP, with the time in the bias."""
        net, width = self._net, self._net.expert.width
        into, into_bias = _weight_and_bias("action_in_proj.projector.")
        weight, bias = _weight_and_bias("action_time_mlp_in.projector.")
        of_action = ColumnRange(of=weight, first=0, end=width)
        of_time = ColumnRange(of=weight, first=width, end=2 * width)
        times = Applied(weight=of_time, rows=Stored(name="time_embedding.1.table"))
        table = Sum(parts=(times, Applied(weight=of_action, rows=into_bias), bias))
        chained, shape = Chained(outer=of_action, inner=into), (width, net.action_dim)
        name = "action_and_time"
        return Linear(
            weight=self._builder.constant(f"{name}.weight", chained, *shape, dtype="fp32"),
            bias=self._by_time(f"{name}.biases", table, width),
            by_time=True,
        )

    def action_time_out(self) -> Linear:
        """pi0: from the hidden layer to tokens."""
        width = self._net.expert.width
        return self._plain("action_time_out", "action_time_mlp_out.projector.", width, width, True)

    def velocity(self) -> tuple[Linear, Adaptive | None]:
        """-velocity / N, and its norm if that is adaptive."""
        net, width, add = self._net, self._net.expert.width, self._builder.constant
        weight, bias = _weight_and_bias("action_out_proj.projector.")
        by, norm, shape = -1.0 / net.num_inference_steps, f"{EXPERT}norm.", (net.action_dim, width)
        if net.adaptive:
            scaled = add("velocity.weight", Scaled(of=weight, by=by), *shape, dtype="fp32")
            shifted = Applied(weight=weight, rows=_third(norm, width, 1))
            table = Scaled(of=Sum(parts=(shifted, bias)), by=by)
            biases = (self._by_time("velocity.biases", table, net.action_dim),)
            scale = self._scale("velocity.scale", norm)
            return Linear(weight=scaled), Adaptive(scale=scale, biases=biases)
        columns = _one_plus(f"{norm}weight")
        folded = Scaled(of=weight, columns=columns, by=by)
        row = add("velocity.bias", Scaled(of=bias, by=by), net.action_dim, dtype="fp32")
        return Linear(weight=add("velocity.weight", folded, *shape, dtype="fp32"), bias=row), None

    def _block(self, part: str, layer: int, stream: GemmaSizes) -> dict[str, Any]:
        """The five weights of a Gemma block, as arguments of `PrefixBlock`."""
        net, name, width = self._net, f"{part}layers.{layer}.", stream.width
        is_expert, mixed = part == EXPERT, net.heads * net.head_dim
        to = f"{'expert' if is_expert else 'prefix'}.{layer}."

        def normed(weight: Recipe, norm: str) -> Recipe:
            if is_expert and net.adaptive:
                return weight
            return Scaled(of=weight, columns=_one_plus(f"{name}{norm}.weight"))

        def matrix(short: str, recipe: Recipe, rows: int, columns: int) -> Pointer:
            return self._builder.constant(f"{to}{short}.weight", recipe, rows, columns)

        def mlp(which: str) -> Recipe:
            return Stored(name=f"{name}mlp.{which}_proj.weight")

        behind = "post_attention_layernorm"
        qkv = normed(self._qkv(f"{name}self_attn.", "weight"), "input_layernorm")
        out = Stored(name=f"{name}self_attn.o_proj.weight")
        return {
            "qkv": matrix("qkv", qkv, net.qkv_rows, width),
            "out": Linear(weight=matrix("out", out, width, mixed)),
            "gate": matrix("gate", normed(mlp("gate"), behind), stream.mlp, width),
            "up": matrix("up", normed(mlp("up"), behind), stream.mlp, width),
            "down": Linear(weight=matrix("down", mlp("down"), width, stream.mlp)),
        }

    def _qkv(self, name: str, kind: str) -> Recipe:
        if self._net.packed:
            return Stored(name=f"{name}packed.qkv_proj.{kind}")
        return Rows(parts=tuple(Stored(name=f"{name}{part}.{kind}") for part in QKV))

    def _plain(self, to: str, name: str, rows: int, columns: int, wide: bool = False) -> Linear:
        """A layer as it is; `wide` keeps its weight in float32."""
        weight, bias = _weight_and_bias(name)
        add, dtype = self._builder.constant, "fp32" if wide else None
        return Linear(
            weight=add(f"{to}.weight", weight, rows, columns, dtype=dtype),
            bias=add(f"{to}.bias", bias, rows, dtype="fp32"),
        )

    def _behind_layer_norm(
        self, to: str, weight: Recipe, bias: Recipe, norm: str, rows: int
    ) -> Linear:
        """A layer with the layer norm before it."""
        add, tower = self._builder.constant, self._net.tower
        scaled = Scaled(of=weight, columns=Stored(name=f"{norm}weight"))
        shifted = Sum(parts=(bias, Applied(weight=weight, rows=Stored(name=f"{norm}bias"))))
        sums = RowSums(of=scaled, dtype="bf16" if self._builder.dtype == "bf16" else "fp32")
        return Linear(
            weight=add(f"{to}.weight", scaled, rows, tower.width),
            bias=add(f"{to}.bias", shifted, rows, dtype="fp32"),
            sums=add(f"{to}.sums", sums, rows, dtype="fp32"),
            eps=tower.eps,
        )

    def _adaptive(self, to: str, norm: str, weights: Mapping[str, Recipe], rows: int) -> Adaptive:
        """An adaptive norm before weights that have so many rows each."""
        shift = _third(norm, self._net.expert.width, 1)
        biases = (
            self._by_time(f"{to}.{name}_biases", Applied(weight=weight, rows=shift), rows)
            for name, weight in weights.items()
        )
        return Adaptive(scale=self._scale(f"{to}.scale", norm), biases=tuple(biases))

    def _scale(self, to: str, norm: str) -> Pointer:
        width = self._net.expert.width
        return self._by_time(to, Sum(parts=(_third(norm, width, 0),), plus=1.0), width)

    def _gate(self, to: str, norm: str) -> Pointer:
        width = self._net.expert.width
        return self._by_time(to, _third(norm, width, 2), width)

    def _by_time(self, to: str, recipe: Recipe, width: int) -> Pointer:
        return self._builder.constant(to, recipe, self._times, width, dtype="fp32")


def _weight_and_bias(name: str) -> tuple[Recipe, Recipe]:
    return Stored(name=f"{name}weight"), Stored(name=f"{name}bias")


def _one_plus(name: str) -> Recipe:
    return Sum(parts=(Stored(name=name),), plus=1.0)


def _third(norm: str, width: int, number: int) -> Recipe:
    """Scale (0), shift (1) or gate (2) of an adaptive norm, (times, width)."""
    table = Stored(name=f"{norm}dense.table")
    return ColumnRange(of=table, first=number * width, end=(number + 1) * width)
