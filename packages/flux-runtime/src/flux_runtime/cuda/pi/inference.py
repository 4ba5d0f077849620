"""The plan of pi0 and pi0.5: vision, prefix, and all Euler steps.

Padding is not computed: neither missing cameras nor the tokens behind a prompt bucket. Nothing is
launched for what can be the end of another launch: bias, activation, norm, gate and residual.
"""

from __future__ import annotations

from ..plan import DType, LaunchPlan, Pointer
from ..tiles import key_splits
from .builder import at
from .constants import Constants, ExpertBlock
from .description import PiDescription
from .launches import Heads, LaunchBuilder, Linear, Mask


def make_plan(
    description: PiDescription,
    num_cameras: int,
    num_tokens: int,
    *,
    dtype: DType = "bf16",
    arch: str = "sm_90a",
) -> LaunchPlan:
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
    launches = LaunchBuilder(arch, dtype)
    inference = _PlanMaker(description, num_cameras, num_tokens, launches)
    inference.add_start()
    if num_cameras:
        inference.add_vision()
    inference.add_prefix()
    for step in range(description.num_inference_steps):
        inference.add_step(step)
    return launches.plan(f"{num_cameras} cameras, {num_tokens} tokens")


class _PlanMaker:
    """The stages of a plan, and the memory that they share."""

    def __init__(
        self, net: PiDescription, num_cameras: int, num_tokens: int, add: LaunchBuilder
    ) -> None:
        self.net, self.add, self.constants = net, add, Constants(net, add)
        self.num_cameras, self.num_tokens = num_cameras, num_tokens
        self.image_tokens = num_cameras * net.tower.tokens
        self.prefix_tokens = self.image_tokens + num_tokens
        self.heads = Heads(queries=net.heads, keys=net.key_heads, dim=net.head_dim)
        self._add_inputs()
        self.prefix_x = add.work("prefix.x", self.prefix_tokens, net.prefix.width)
        self.expert_x = add.work("expert.x", net.suffix_tokens, net.expert.width)
        self.x_t = add.work("x_t", net.horizon, net.action_dim, dtype="fp32")
        keys = (self.prefix_tokens + net.suffix_tokens, net.key_heads, net.head_dim)
        self.keys = [add.work(f"keys.{layer}", *keys) for layer in range(net.layers)]
        self.values = [add.work(f"values.{layer}", *keys) for layer in range(net.layers)]

    def _add_inputs(self) -> None:
        add, net = self.add, self.net
        add.num_tokens = add.buffer("num_tokens", "input", "i32", 1)
        add.num_known = add.buffer("num_known", "input", "i32", 1)
        self.tokens = add.buffer("tokens", "input", "i32", self.num_tokens)
        actions = (net.horizon, net.action_dim)
        self.noise = add.buffer("noise", "input", "fp32", *actions)
        self.known = add.buffer("known", "input", "fp32", *actions)
        self.actions = add.buffer("actions", "output", "fp32", *actions)

    def add_start(self) -> None:
        """Sets x_t to the known actions and noise."""
        self.add.stage = "start"
        self.add.start(self.noise, self.known, self.x_t)

    def add_vision(self) -> None:
        """Adds the vision tower, and the projector into the prefix's stream."""
        add, tower, constants, rows = self.add, self.net.tower, self.constants, self.image_tokens
        add.stage = "vision"
        size, width = tower.image_size, tower.width
        images = add.buffer("images", "input", "u8", self.num_cameras, size, size, 3)
        cameras = add.buffer("cameras", "input", "i32", self.num_cameras)
        x = add.work("vision.x", rows, width)
        qkv = add.work("vision.qkv", rows, 3 * width)
        mixed = add.work("vision.mixed", rows, width)
        hidden = add.work("vision.hidden", rows, tower.mlp)
        add.patches(
            images, cameras, constants.image_affine(), *constants.patches(), x, patch=tower.patch
        )
        for layer in range(tower.layers):
            block = constants.vision_block(layer)
            add.linear(block.qkv, x, qkv, rows)
            add.attention(
                *(qkv, at(qkv, width), at(qkv, 2 * width), mixed),
                heads=Heads(queries=tower.heads, keys=tower.heads, dim=width // tower.heads),
                num_queries=tower.tokens,
                num_keys=tower.tokens,
                strides=(3 * width, 3 * width, width),
                pictures=self.num_cameras,
            )
            add.linear(block.out, mixed, x, rows, residual=x)
            add.linear(block.fc1, x, hidden, rows, activation="gelu")
            add.linear(block.fc2, hidden, x, rows, residual=x)
        add.linear(constants.projector(), x, self.prefix_x, rows)

    def add_prefix(self) -> None:
        """Adds the words and the language stream; the last layer gives keys and values only."""
        add, net, rows, x = self.add, self.net, self.prefix_tokens, self.prefix_x
        add.stage, eps = "prefix", net.prefix.eps
        words = at(x, self.image_tokens * net.prefix.width)
        add.embed(self.tokens, self.constants.embedding(), words)
        queries = add.work("prefix.queries", rows, net.heads, net.head_dim)
        mixed = add.work("prefix.mixed", rows, net.heads, net.head_dim)
        hidden = add.work("prefix.hidden", rows, net.prefix.mlp)
        for layer in range(net.layers):
            block = self.constants.prefix_block(layer)
            is_last = layer + 1 == net.layers
            keys, values = self.keys[layer], self.values[layer]
            add.qkv_rope(
                *(block.qkv, x, (queries, keys, values), rows),
                heads=self.heads,
                angles=self.constants.angles("prefix"),
                first_row=0,
                first_position=0,
                behind_prompt=False,
                eps=eps,
                only_keys=is_last,
            )
            if is_last:
                return
            self._attention(queries, layer, mixed, rows, rows, state_tokens=0)
            add.linear(block.out, mixed, x, rows, residual=x)
            add.geglu(block.gate, block.up, x, hidden, rows, eps=eps)
            add.linear(block.down, hidden, x, rows, residual=x)

    def add_step(self, step: int) -> None:
        """Adds one Euler step, from x_t to x_t or, in the last one, to the actions.

        A state's token never depends on the actions or the time, so only the first step has it; its
        keys and values stay.
        """
        net, add = self.net, self.add
        add.stage = "steps"
        first = net.state_tokens if step > 0 else 0
        time_row = net.num_inference_steps - step
        self._add_suffix(step, time_row)
        for layer in range(net.layers):
            self._add_expert_block(self.constants.expert_block(layer), layer, first, time_row)
        velocity, adaptive = self.constants.velocity()
        add.euler(
            velocity,
            at(self.expert_x, net.state_tokens * net.expert.width),
            self.x_t,
            self.actions if time_row == 1 else self.x_t,
            net.horizon,
            live_columns=net.live_dims,
            time_row=time_row,
            eps=net.expert.eps,
            adaptive=adaptive,
        )

    def _add_suffix(self, step: int, time_row: int) -> None:
        """Adds the expert's input: the tokens of x_t and, in the first step, of the state."""
        net, add, constants = self.net, self.add, self.constants
        to = at(self.expert_x, net.state_tokens * net.expert.width)
        if net.adaptive:
            add.linear(constants.action_in(), self.x_t, to, net.horizon)
            return
        if step == 0:
            state = add.buffer("state", "input", "fp32", net.state_dim)
            add.linear(constants.state(), state, self.expert_x, 1)
        hidden = add.work("time_hidden", net.horizon, net.expert.width, dtype="fp32")
        into: Linear = constants.action_and_time()
        add.linear(into, self.x_t, hidden, net.horizon, activation="silu", time_row=time_row)
        add.linear(constants.action_time_out(), hidden, to, net.horizon)

    def _add_expert_block(self, block: ExpertBlock, layer: int, first: int, time_row: int) -> None:
        """Adds a block for the tokens of the suffix from `first` on."""
        net, add, stream = self.net, self.add, self.net.expert
        rows, all_rows = net.suffix_tokens - first, net.suffix_tokens
        x = at(self.expert_x, first * stream.width)
        queries = add.work("expert.queries", all_rows, net.heads, net.head_dim)
        mixed = add.work("expert.mixed", all_rows, net.heads, net.head_dim)
        hidden = add.work("expert.hidden", all_rows, stream.mlp)
        add.qkv_rope(
            *(block.qkv, x, (queries, self.keys[layer], self.values[layer]), rows),
            heads=self.heads,
            angles=self.constants.angles("expert"),
            first_row=self.prefix_tokens + first,
            first_position=self.image_tokens + first,
            behind_prompt=True,
            eps=stream.eps,
            adaptive=block.before_attention,
            time_row=time_row,
        )
        keys = self.prefix_tokens + all_rows
        self._attention(
            queries, layer, mixed, rows, keys, state_tokens=net.state_tokens - first, split=True
        )
        add.linear(
            block.out, mixed, x, rows, residual=x, gate=block.attention_gate, time_row=time_row
        )
        add.geglu(
            *(block.gate, block.up, x, hidden, rows),
            eps=stream.eps,
            adaptive=block.before_mlp,
            time_row=time_row,
        )
        add.linear(block.down, hidden, x, rows, residual=x, gate=block.mlp_gate, time_row=time_row)

    def _attention(
        self,
        queries: Pointer,
        layer: int,
        mixed: Pointer,
        rows: int,
        num_keys: int,
        *,
        state_tokens: int,
        split: bool = False,
    ) -> None:
        """Adds the attention of one of the two Gemma streams."""
        heads, token = self.heads, self.heads.queries * self.heads.dim
        self.add.attention(
            *(queries, self.keys[layer], self.values[layer], mixed),
            heads=heads,
            num_queries=rows,
            num_keys=num_keys,
            strides=(token, heads.keys * heads.dim, token),
            mask=Mask(
                image_tokens=self.image_tokens,
                prefix_end=self.prefix_tokens,
                state_tokens=state_tokens,
            ),
            parts=self._parts() if split else None,
        )

    def _parts(self) -> tuple[Pointer, Pointer]:
        """Memory for the parts of the expert's attention."""
        add, rows, heads = self.add, self.net.suffix_tokens, self.heads
        splits = key_splits(add.arch)
        shape = (splits, rows, heads.queries, heads.dim)
        statistics = (splits, 2, rows, heads.queries)
        return add.work("parts", *shape, dtype="fp32"), add.work(
            "statistics", *statistics, dtype="fp32"
        )
