"""The plan of pi0 and pi0.5: vision, prefix, and all Euler steps, with every weight packed once.

Padding is not computed: neither missing cameras nor the tokens behind a prompt bucket. Nothing is
launched for what can be the end of another launch: bias, activation, norm, gate and residual.

Legend: C pictures, P prefix tokens, H action steps, A action dimensions, N inference steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .builder import PlanBuilder, at, ceil_div, power_of_two
from .constants import Constants, ExpertBlock
from .description import PiDescription, Stream
from .plan import DType, Plan, Pointer
from .tiles import key_splits

LOG2_E = math.log2(math.e)
GELU, SILU = 1, 2
VECTOR, BY_TIME = 1, 2
ADDED, GATED = 1, 2


def make_plan(
    description: PiDescription,
    num_cameras: int,
    num_tokens: int,
    *,
    dtype: DType = "bf16",
    arch: str = "sm_90a",
) -> Plan:
    """Returns one inference for so many present cameras and at most so many prompt tokens.

    Args:
        description: the network.
        num_cameras: 0 to the bundle's number of cameras.
        num_tokens: the prompt bucket, at least 1.
        dtype: of streams and weights; 'fp32' is for tests.
        arch: of the card, such as 'sm_90a'; '' for Triton's interpreter.
    """
    most = len(description.image_scale)
    assert 0 <= num_cameras <= most, f"expected at most {most} cameras, got {num_cameras}"
    assert num_tokens >= 1, f"expected at least 1 token, got {num_tokens}"
    maker = PiPlan(description, num_cameras, num_tokens, PlanBuilder(arch, dtype))
    maker.add_start()
    if num_cameras:
        maker.add_vision()
    maker.add_prefix()
    for step in range(description.num_inference_steps):
        maker.add_step(step)
    return maker.builder.plan(f"{num_cameras} cameras, {num_tokens} tokens")


class PiPlan:
    """A plan that is being made: its sizes and its memory."""

    def __init__(
        self, description: PiDescription, num_cameras: int, num_tokens: int, builder: PlanBuilder
    ) -> None:
        self.net, self.builder = description, builder
        self.num_cameras, self.num_tokens = num_cameras, num_tokens
        self.constants = Constants(description, builder)
        net, tower = description, description.tower
        self.image_tokens = num_cameras * tower.tokens
        self.prefix_tokens = self.image_tokens + num_tokens
        self._add_inputs()
        queries = (net.heads, net.head_dim)
        self.vision_x = builder.work("vision.x", self.image_tokens, tower.width)
        self.prefix_x = builder.work("prefix.x", self.prefix_tokens, net.prefix.width)
        self.expert_x = builder.work("expert.x", net.suffix_tokens, net.expert.width)
        self.x_t = builder.work("x_t", net.horizon, net.action_dim, dtype="fp32")
        keys = (self.prefix_tokens + net.suffix_tokens, net.key_heads, net.head_dim)
        self.keys = [builder.work(f"keys.{layer}", *keys) for layer in range(net.layers)]
        self.values = [builder.work(f"values.{layer}", *keys) for layer in range(net.layers)]
        self.splits = key_splits(builder.arch, rows=net.suffix_tokens * net.heads, keys=keys[0])
        rows = net.suffix_tokens
        self.parts = builder.work("parts", self.splits, rows, *queries, dtype="fp32")
        self.statistics = builder.work(
            "statistics", self.splits, 2, rows, net.heads, dtype="fp32"
        )

    def _add_inputs(self) -> None:
        builder, net, size = self.builder, self.net, self.net.tower.image_size
        if self.num_cameras:
            pictures = (self.num_cameras, size, size, 3)
            self.images = builder.buffer("images", "input", "u8", *pictures)
            self.cameras = builder.buffer("cameras", "input", "i32", self.num_cameras)
        self.tokens = builder.buffer("tokens", "input", "i32", self.num_tokens)
        self.prompt_length = builder.buffer("num_tokens", "input", "i32", 1)
        if net.state_dim:
            self.state = builder.buffer("state", "input", "fp32", net.state_dim)
        actions = (net.horizon, net.action_dim)
        self.noise = builder.buffer("noise", "input", "fp32", *actions)
        self.known = builder.buffer("known", "input", "fp32", *actions)
        self.num_known = builder.buffer("num_known", "input", "i32", 1)
        self.actions = builder.buffer("actions", "output", "fp32", *actions)

    def add_start(self) -> None:
        """Sets x_t to the known actions and noise."""
        net = self.net
        rows, columns = net.horizon, net.action_dim
        tiles = self.builder.tiles("start", rows, columns)
        grid = self._grid(tiles.constants, rows, columns)
        arguments = (self.noise, self.known, self.num_known, self.x_t, rows, columns)
        self.builder.launch("start", "start", arguments, grid, tiles, {})

    def add_vision(self) -> None:
        """Adds the vision tower and the projector into the prefix's stream."""
        tower, rows = self.net.tower, self.image_tokens
        width, heads = tower.width, tower.heads
        qkv = self.builder.work("vision.qkv", rows, 3 * width)
        mixed = self.builder.work("vision.mixed", rows, width)
        hidden = self.builder.work("vision.hidden", rows, tower.mlp)
        self._patches()
        x = self.vision_x
        for layer in range(tower.layers):
            block = self.constants.vision_block(layer)
            self.linear("vision", x, qkv, rows, *block.qkv, eps=tower.eps)
            self.attention(
                "vision",
                (qkv, at(qkv, width), at(qkv, 2 * width), mixed),
                tokens=tower.tokens,
                keys=tower.tokens,
                strides=(3 * width, 3 * width, width),
                heads=(heads, 1, width // heads),
                pictures=self.num_cameras,
            )
            self.linear("vision", mixed, x, rows, *block.out, residual=x)
            self.linear("vision", x, hidden, rows, *block.fc1, eps=tower.eps, activation=GELU)
            self.linear("vision", hidden, x, rows, *block.fc2, residual=x)
        projector = self.constants.projector()
        self.linear("vision", x, self.prefix_x, rows, *projector, eps=tower.eps)

    def _patches(self) -> None:
        tower, constants = self.net.tower, self.constants
        depth = tower.padded_patch
        tiles = self.builder.tiles("patches", tower.tokens, tower.width, depth)
        rows, columns, _ = self._grid(tiles.constants, tower.tokens, tower.width)
        weight, table = constants.patches()
        scale, offset = constants.image_affine()
        arguments = (self.images, self.cameras, scale, offset, weight, table, self.vision_x)
        self.builder.launch(
            "vision",
            "patches",
            (*arguments, tower.width),
            (rows, columns, self.num_cameras),
            tiles,
            {"SIZE": tower.image_size, "PATCH": tower.patch, "PADDED_K": depth},
        )

    def add_prefix(self) -> None:
        """Adds the words and the language stream; the last layer gives keys and values only."""
        net, stream, rows = self.net, self.net.prefix, self.prefix_tokens
        self._embed()
        queries = self.builder.work("prefix.queries", rows, net.heads, net.head_dim)
        mixed = self.builder.work("prefix.mixed", rows, net.heads, net.head_dim)
        hidden = self.builder.work("prefix.hidden", rows, stream.mlp)
        for layer in range(net.layers):
            block = self.constants.prefix_block(layer)
            is_last = layer + 1 == net.layers
            self.qkv_rope(
                "prefix", self.prefix_x, queries, layer, block.qkv, stream, rows, is_last=is_last
            )
            if is_last:
                return
            self.attention(
                "prefix",
                (queries, self.keys[layer], self.values[layer], mixed),
                tokens=rows,
                keys=rows,
                strides=self._strides,
                heads=(net.key_heads, net.heads // net.key_heads, net.head_dim),
                masked=True,
            )
            x = self.prefix_x
            self.linear("prefix", mixed, x, rows, block.out, None, residual=x)
            self.geglu("prefix", x, hidden, rows, block.gate, block.up, stream)
            self.linear("prefix", hidden, x, rows, block.down, None, residual=x)

    def _embed(self) -> None:
        width = self.net.prefix.width
        tiles = self.builder.tiles("embed", self.num_tokens, width)
        to = at(self.prefix_x, self.image_tokens * width)
        arguments = (self.tokens, self.constants.embedding(), to, width, width**0.5)
        grid = (self.num_tokens, ceil_div(width, tiles.constants["BN"]), 1)
        self.builder.launch("prefix", "embed", arguments, grid, tiles, {})

    def add_step(self, step: int) -> None:
        """Adds one Euler step, from x_t to x_t or, in the last one, to the actions.

        A state's token never depends on the actions or the time, so only the first step has it; its
        keys and values stay.
        """
        net, stream = self.net, self.net.expert
        first = 1 if net.state_dim and step > 0 else 0
        rows = net.suffix_tokens - first
        x = at(self.expert_x, first * stream.width)
        time_row = net.num_inference_steps - step
        self._add_suffix(step, time_row)
        queries = self.builder.work("expert.queries", net.suffix_tokens, net.heads, net.head_dim)
        mixed = self.builder.work("expert.mixed", net.suffix_tokens, net.heads, net.head_dim)
        hidden = self.builder.work("expert.hidden", net.suffix_tokens, stream.mlp)
        for layer in range(net.layers):
            block = self.constants.expert_block(layer)
            self._expert_block(block, layer, x, rows, first, time_row, queries, mixed, hidden)
        self._euler(step, time_row)

    def _expert_block(
        self,
        block: ExpertBlock,
        layer: int,
        x: Pointer,
        rows: int,
        first: int,
        time_row: int,
        queries: Pointer,
        mixed: Pointer,
        hidden: Pointer,
    ) -> None:
        net, stream = self.net, self.net.expert
        self.qkv_rope(
            "steps", x, queries, layer, block.qkv, stream, rows,
            scale=block.input_scale, bias=block.qkv_bias, time_row=time_row, suffix_row=first,
        )  # fmt: skip
        self.attention(
            "steps",
            (queries, self.keys[layer], self.values[layer], mixed),
            tokens=rows,
            keys=self.prefix_tokens + net.suffix_tokens,
            strides=self._strides,
            heads=(net.key_heads, net.heads // net.key_heads, net.head_dim),
            masked=True,
            state_tokens=net.suffix_tokens - net.horizon - first,
            splits=self.splits,
        )
        self.linear(
            "steps", mixed, x, rows, block.out, None,
            residual=x, gate=block.attention_gate, time_row=time_row,
        )  # fmt: skip
        self.geglu(
            "steps", x, hidden, rows, block.gate, block.up, stream,
            scale=block.mlp_scale, biases=block.mlp_biases, time_row=time_row,
        )  # fmt: skip
        self.linear(
            "steps", hidden, x, rows, block.down, None,
            residual=x, gate=block.mlp_gate, time_row=time_row,
        )  # fmt: skip

    def _add_suffix(self, step: int, time_row: int) -> None:
        """Adds the expert's input: the tokens of x_t and, in the first step, of the state."""
        net, constants, width = self.net, self.constants, self.net.expert.width
        to = at(self.expert_x, (net.suffix_tokens - net.horizon) * width)
        if net.adaptive:
            self.linear("steps", self.x_t, to, net.horizon, *constants.action_in())
            return
        if step == 0:
            self.linear("steps", self.state, self.expert_x, 1, *constants.state())
        hidden = self.builder.work("time_hidden", net.horizon, width, dtype="fp32")
        weight, bias = constants.action_and_time()
        self.linear(
            "steps", self.x_t, hidden, net.horizon, weight, bias,
            bias_kind=BY_TIME, activation=SILU, time_row=time_row,
        )  # fmt: skip
        self.linear("steps", hidden, to, net.horizon, *constants.action_time_out())

    def _euler(self, step: int, time_row: int) -> None:
        net, width = self.net, self.net.expert.width
        rows, columns = net.horizon, net.action_dim
        weight, bias, scale = self.constants.velocity()
        x = at(self.expert_x, (net.suffix_tokens - net.horizon) * width)
        out = self.actions if step + 1 == net.num_inference_steps else self.x_t
        tiles = self.builder.tiles("euler", rows, columns, width)
        shrink = (time_row - 1) / time_row
        sizes = (rows, columns, width, time_row, net.live_dims, shrink, net.expert.eps)
        arguments = (x, weight, scale or out, bias, self.x_t, out, self.num_known, *sizes)
        constants = {"ADAPTIVE": scale is not None, "EVEN_K": width % tiles.constants["BK"] == 0}
        grid = self._grid(tiles.constants, rows, columns)
        self.builder.launch("steps", "euler", arguments, grid, tiles, constants)

    # The kernels with a shape of their own in each place.

    def linear(
        self,
        stage: str,
        x: Pointer,
        out: Pointer,
        rows: int,
        weight: Pointer,
        bias: Pointer | None,
        weight_sums: Pointer | None = None,
        *,
        bias_kind: int = VECTOR,
        activation: int = 0,
        residual: Pointer | None = None,
        gate: Pointer | None = None,
        time_row: int = 0,
        eps: float = 0.0,
    ) -> None:
        """Adds a linear layer; the weight's buffer has its sizes."""
        columns, depth = self.builder.shape(weight)
        tiles = self.builder.tiles("linear", rows, columns, depth)
        pointers = (
            x, weight, bias or out, weight_sums or out, gate or out, residual or out, out,
        )  # fmt: skip
        constants = {
            "LAYER_NORM": weight_sums is not None,
            "BIAS": 0 if bias is None else bias_kind,
            "ACTIVATION": activation,
            "RESIDUAL": 0 if residual is None else ADDED if gate is None else GATED,
            "EVEN_K": depth % tiles.constants["BK"] == 0,
        }
        arguments = (*pointers, self.num_known, rows, columns, depth, time_row, eps)
        grid = self._grid(tiles.constants, rows, columns)
        self.builder.launch(stage, "linear", arguments, grid, tiles, constants)

    def geglu(
        self,
        stage: str,
        x: Pointer,
        out: Pointer,
        rows: int,
        gate: Pointer,
        up: Pointer,
        stream: Stream,
        *,
        scale: Pointer | None = None,
        biases: tuple[Pointer, Pointer] | None = None,
        time_row: int = 0,
    ) -> None:
        """Adds norm, gate and up projection."""
        columns, depth = stream.mlp, stream.width
        tiles = self.builder.tiles("geglu", rows, columns, depth)
        adaptive = (scale or out, *(biases or (out, out)))
        sizes = (rows, columns, depth, time_row, stream.eps)
        arguments = (x, gate, up, *adaptive, out, self.num_known, *sizes)
        constants = {"ADAPTIVE": scale is not None, "EVEN_K": depth % tiles.constants["BK"] == 0}
        grid = self._grid(tiles.constants, rows, columns)
        self.builder.launch(stage, "geglu", arguments, grid, tiles, constants)

    def qkv_rope(
        self,
        stage: str,
        x: Pointer,
        queries: Pointer,
        layer: int,
        weight: Pointer,
        stream: Stream,
        rows: int,
        *,
        scale: Pointer | None = None,
        bias: Pointer | None = None,
        time_row: int = 0,
        suffix_row: int | None = None,
        is_last: bool = False,
    ) -> None:
        """Adds norm, projections and rotation; keys and values go to the layer's memory.

        `suffix_row` is the first row's place in the suffix; None in the prefix. `is_last` leaves the
        queries out.
        """
        net, depth, half = self.net, stream.width, self.net.head_dim // 2
        tiles = self.builder.tiles("qkv_rope", rows, half, depth)
        is_suffix = suffix_row is not None
        first_head = net.heads if is_last else 0
        first_row = self.prefix_tokens + (suffix_row or 0) if is_suffix else 0
        position = self.image_tokens + (suffix_row or 0) if is_suffix else 0
        memory = (queries, self.keys[layer], self.values[layer])
        adaptive = (scale or queries, bias or queries, self.constants.angles(is_suffix))
        integers = (rows, depth, first_head, first_row, position, time_row)
        counts = (self.prompt_length, self.num_known)
        arguments = (x, weight, *adaptive, *memory, *counts, *integers, stream.eps)
        constants = {
            "HEADS": net.heads,
            "KV_HEADS": net.key_heads,
            "D": net.head_dim,
            "ADAPTIVE": scale is not None,
            "BEHIND_PROMPT": is_suffix,
            "EVEN_K": depth % tiles.constants["BK"] == 0,
        }
        heads = net.heads + 2 * net.key_heads - first_head
        columns = heads * half // tiles.constants["BN"]
        grid = (ceil_div(rows, tiles.constants["BM"]), columns, 1)
        self.builder.launch(stage, "qkv_rope", arguments, grid, tiles, constants)

    def attention(
        self,
        stage: str,
        memory: tuple[Pointer, Pointer, Pointer, Pointer],
        *,
        tokens: int,
        keys: int,
        strides: tuple[int, int, int],
        heads: tuple[int, int, int],
        pictures: int = 1,
        masked: bool = False,
        state_tokens: int = 0,
        splits: int = 1,
    ) -> None:
        """Adds attention, and the sum of its parts if there are several.

        Args:
            stage: the launches'.
            memory: queries, keys, values, and the result.
            tokens: of the queries.
            keys: their number.
            strides: from token to token in queries, keys and result.
            heads: key heads, query heads for each, and dimensions of one.
            pictures: number of independent attentions.
            masked: whether the end of the prompt is padding.
            state_tokens: first tokens that see only themselves behind the prefix.
            splits: parts of the keys.
        """
        key_heads, group, dim = heads
        tiles = self.builder.tiles("attention", tokens * group, keys, dim)
        out = memory[3]
        parts = (self.parts, self.statistics) if splits > 1 else (out, out)
        masks = (self.image_tokens, self.prefix_tokens, state_tokens)
        scale = dim**-0.5 * LOG2_E
        arguments = (*memory, *parts, self.prompt_length, tokens, keys, *strides, *masks, scale)
        sizes = {"D": dim, "PADDED_D": power_of_two(dim), "SPLITS": splits}
        grid = (ceil_div(tokens * group, tiles.constants["BM"]), key_heads, pictures * splits)
        constants = {"GROUP": group, "MASKED": masked, **sizes}
        self.builder.launch(stage, "attention", arguments, grid, tiles, constants)
        if splits > 1:
            rows = tokens * group * key_heads
            tiles = self.builder.tiles("combine", rows, 0, dim)
            grid = (ceil_div(rows, tiles.constants["BM"]), 1, 1)
            self.builder.launch("steps", "combine", (*parts, out, rows), grid, tiles, sizes)

    @property
    def _strides(self) -> tuple[int, int, int]:
        """From token to token in queries, keys and the result, of the two Gemma streams."""
        net = self.net
        width = net.heads * net.head_dim
        return width, net.key_heads * net.head_dim, width

    @staticmethod
    def _grid(tiles: Mapping[str, int], rows: int, columns: int) -> tuple[int, int, int]:
        return ceil_div(rows, tiles["BM"]), ceil_div(columns, tiles["BN"]), 1
