"""The launches of each kernel: grid, arguments and constants for a problem.

A product with an adaptive norm (adaRMS) takes the norm's scale as a factor of its rows, and what
the norm's shift becomes behind the weight as biases; both are tables with one row per time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..plan import Argument, Pointer
from ..tiles import power_of_two
from .builder import PlanBuilder, ceil_div

LOG2_E = math.log2(math.e)
Activation = Literal["none", "gelu", "silu"]
_ACTIVATIONS: Mapping[Activation, int] = {"none": 0, "gelu": 1, "silu": 2}


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear layer.

    Attributes:
        weight: (N, K).
        bias: (N,), or (times, N) with `by_time`.
        by_time: whether the bias is a table with one row per time.
        sums: (N,) of the weight's rows, with a layer norm before it.
        eps: of the layer norm.
    """

    weight: Pointer
    bias: Pointer | None = None
    by_time: bool = False
    sums: Pointer | None = None
    eps: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """An adaptive norm: `scale` (times, K), and the biases (times, N) of the weights behind it."""

    scale: Pointer
    biases: tuple[Pointer, ...]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Numbers of query heads and key heads, and the dimensions of one."""

    queries: int
    keys: int
    dim: int

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.queries // self.keys


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Which keys are seen.

    Attributes:
        image_tokens: keys before the prompt.
        prefix_end: keys from the end of the prompt to here are padding.
        state_tokens: so many first queries see only as many keys behind the prefix.
    """

    image_tokens: int
    prefix_end: int
    state_tokens: int = 0


class LaunchBuilder(PlanBuilder):
    """Adds launches to a plan.

    Attributes:
        stage: of the launches that are added next.
        num_tokens, num_known: two inputs that many kernels read.
    """

    stage: str
    num_tokens: Pointer
    num_known: Pointer

    def linear(
        self,
        layer: Linear,
        x: Pointer,
        out: Pointer,
        rows: int,
        *,
        activation: Activation = "none",
        residual: Pointer | None = None,
        gate: Pointer | None = None,
        time_row: int = 0,
    ) -> None:
        """out = residual + gate * activation(layer(x)); `gate` is (times, N)."""
        columns, depth = self.shape(layer.weight)
        tiles = self.tiles("linear", rows, columns, depth, layer.weight)
        constants = {
            "LAYER_NORM": layer.sums is not None,
            "BIAS": 0 if layer.bias is None else 2 if layer.by_time else 1,
            "ACTIVATION": _ACTIVATIONS[activation],
            "RESIDUAL": 0 if residual is None else 1 if gate is None else 2,
            "EVEN_K": depth % tiles.constants["BK"] == 0,
        }
        arguments: tuple[Argument, ...] = (
            *(x, layer.weight, layer.bias or out, layer.sums or out),
            *(gate or out, residual or out, out, self.num_known),
            *(rows, columns, depth, time_row, layer.eps),
        )
        grid = _grid(tiles.constants, rows, columns)
        self.launch(self.stage, "linear", arguments, grid, tiles, constants)

    def geglu(
        self,
        gate: Pointer,
        up: Pointer,
        x: Pointer,
        out: Pointer,
        rows: int,
        *,
        eps: float,
        adaptive: Adaptive | None = None,
        time_row: int = 0,
    ) -> None:
        """out = gelu(gate(norm(x))) * up(norm(x))."""
        columns, depth = self.shape(gate)
        tiles = self.tiles("geglu", rows, columns, depth, gate)
        tables = (adaptive.scale, *adaptive.biases) if adaptive else (out, out, out)
        sizes = (rows, columns, depth, time_row, eps)
        arguments = (x, gate, up, *tables, out, self.num_known, *sizes)
        constants = {
            "ADAPTIVE": adaptive is not None,
            "EVEN_K": depth % tiles.constants["BK"] == 0,
        }
        grid = _grid(tiles.constants, rows, columns)
        self.launch(self.stage, "geglu", arguments, grid, tiles, constants)

    def euler(
        self,
        layer: Linear,
        x: Pointer,
        x_t: Pointer,
        out: Pointer,
        rows: int,
        *,
        live_columns: int,
        time_row: int,
        eps: float,
        adaptive: Adaptive | None = None,
    ) -> None:
        """out = x_t + layer(norm(x)); an adaptive norm's bias replaces that of the layer."""
        columns, depth = self.shape(layer.weight)
        tiles = self.tiles("euler", rows, columns, depth, layer.weight)
        bias = adaptive.biases[0] if adaptive else layer.bias
        assert bias is not None
        arguments: tuple[Argument, ...] = (
            *(x, layer.weight, adaptive.scale if adaptive else out, bias, x_t, out),
            *(self.num_known, rows, columns, depth, time_row, live_columns),
            *((time_row - 1) / time_row, eps),
        )
        constants = {
            "ADAPTIVE": adaptive is not None,
            "EVEN_K": depth % tiles.constants["BK"] == 0,
        }
        grid = _grid(tiles.constants, rows, columns)
        self.launch(self.stage, "euler", arguments, grid, tiles, constants)

    def qkv_rope(
        self,
        weight: Pointer,
        x: Pointer,
        out: tuple[Pointer, Pointer, Pointer],
        rows: int,
        *,
        heads: Heads,
        angles: Pointer,
        first_row: int,
        first_position: int,
        behind_prompt: bool,
        eps: float,
        only_keys: bool = False,
        adaptive: Adaptive | None = None,
        time_row: int = 0,
    ) -> None:
        """Queries, keys and values of norm(x), rotated.

        Args:
            weight: ((queries + 2 keys) * dim, K).
            x: (rows, K).
            out: queries (rows, heads, dim), and keys and values, written from `first_row` on.
            rows: tokens.
            heads: of the attention.
            angles: (positions, dim).
            first_row: where the first token's key goes.
            first_position: of the first token; counted from the prompt's end if `behind_prompt`.
            behind_prompt: whether the prompt's length is added to positions.
            eps: of the norm.
            only_keys: leaves the queries out.
            adaptive: the norm, if it is adaptive.
            time_row: of the tables.
        """
        _, depth = self.shape(weight)
        half = heads.dim // 2
        tiles = self.tiles("qkv_rope", rows, half, depth, weight)
        first_head = heads.queries if only_keys else 0
        queries = out[0]
        scale, bias = (adaptive.scale, adaptive.biases[0]) if adaptive else (queries, queries)
        arguments: tuple[Argument, ...] = (
            *(x, weight, scale, bias, angles, *out, self.num_tokens, self.num_known),
            *(rows, depth, first_head, first_row, first_position, time_row, eps),
        )
        constants = {
            "HEADS": heads.queries,
            "KV_HEADS": heads.keys,
            "D": heads.dim,
            "ADAPTIVE": adaptive is not None,
            "BEHIND_PROMPT": behind_prompt,
            "EVEN_K": depth % tiles.constants["BK"] == 0,
        }
        num_heads = heads.queries + 2 * heads.keys - first_head
        parts = num_heads * half // tiles.constants["BN"]
        grid = (ceil_div(rows, tiles.constants["BM"]), parts, 1)
        self.launch(self.stage, "qkv_rope", arguments, grid, tiles, constants)

    def attention(
        self,
        queries: Pointer,
        keys: Pointer,
        values: Pointer,
        out: Pointer,
        *,
        heads: Heads,
        num_queries: int,
        num_keys: int,
        strides: tuple[int, int, int],
        pictures: int = 1,
        mask: Mask | None = None,
        parts: tuple[Pointer, Pointer] | None = None,
    ) -> None:
        """Attention of each picture, and the sum of its parts if there are several.

        Args:
            queries, keys, values, out: tokens of heads.
            heads: of the attention.
            num_queries, num_keys: tokens per picture.
            strides: elements from token to token of queries, keys (and values), and out.
            pictures: number of independent attentions.
            mask: None if all keys are seen.
            parts: memory for partial results, (splits, queries, heads, dim), and their statistics;
                None without splits.
        """
        splits = self.shape(parts[0])[0] if parts else 1
        rows = num_queries * heads.group
        tiles = self.tiles("attention", rows, num_keys, heads.dim)
        seen = mask or Mask(image_tokens=0, prefix_end=0)
        arguments: tuple[Argument, ...] = (
            *(queries, keys, values, out, *(parts or (out, out)), self.num_tokens),
            *(num_queries, num_keys, *strides),
            *(seen.image_tokens, seen.prefix_end, seen.state_tokens),
            heads.dim**-0.5 * LOG2_E,
        )
        sizes = {"D": heads.dim, "PADDED_D": max(16, power_of_two(heads.dim)), "SPLITS": splits}
        constants = {"GROUP": heads.group, "MASKED": mask is not None, **sizes}
        grid = (ceil_div(rows, tiles.constants["BM"]), heads.keys, pictures * splits)
        self.launch(self.stage, "attention", arguments, grid, tiles, constants)
        if parts is not None:
            self._combine(parts, out, num_queries * heads.queries, heads.dim, sizes)

    def _combine(
        self,
        parts: tuple[Pointer, Pointer],
        out: Pointer,
        rows: int,
        dim: int,
        sizes: Mapping[str, int],
    ) -> None:
        tiles = self.tiles("combine", rows, 0, dim)
        grid = (ceil_div(rows, tiles.constants["BM"]), 1, 1)
        self.launch(self.stage, "combine", (*parts, out, rows), grid, tiles, sizes)

    def patches(
        self,
        images: Pointer,
        cameras: Pointer,
        affine: tuple[Pointer, Pointer],
        weight: Pointer,
        table: Pointer,
        out: Pointer,
        *,
        patch: int,
    ) -> None:
        """The patches of all pictures."""
        pictures, size, _, _ = self.shape(images)
        columns, depth = self.shape(weight)
        num_patches = (size // patch) ** 2
        tiles = self.tiles("patches", num_patches, columns, depth, weight)
        rows, parts, _ = _grid(tiles.constants, num_patches, columns)
        arguments = (images, cameras, *affine, weight, table, out, columns)
        constants = {"SIZE": size, "PATCH": patch, "PADDED_K": depth}
        self.launch(self.stage, "patches", arguments, (rows, parts, pictures), tiles, constants)

    def embed(self, tokens: Pointer, words: Pointer, out: Pointer) -> None:
        """The words of a prompt, times the square root of their width."""
        (num_tokens,), (_, width) = self.shape(tokens), self.shape(words)
        tiles = self.tiles("embed", num_tokens, width)
        grid = (num_tokens, ceil_div(width, tiles.constants["BN"]), 1)
        self.launch(self.stage, "embed", (tokens, words, out, width, width**0.5), grid, tiles, {})

    def start(self, noise: Pointer, known: Pointer, x_t: Pointer) -> None:
        """x_t = the known actions, then noise."""
        rows, columns = self.shape(x_t)
        tiles = self.tiles("start", rows, columns)
        grid = _grid(tiles.constants, rows, columns)
        arguments = (noise, known, self.num_known, x_t, rows, columns)
        self.launch(self.stage, "start", arguments, grid, tiles, {})


def _grid(tiles: Mapping[str, int], rows: int, columns: int) -> tuple[int, int, int]:
    return ceil_div(rows, tiles["BM"]), ceil_div(columns, tiles["BN"]), 1
