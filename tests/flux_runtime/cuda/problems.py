"""One problem per kernel and variant: a plan of one launch, its inputs, and the answer in float64.

Sizes do not divide the tiles, results are parts of larger memory, and everything that no program
may touch is poisoned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_runtime.cuda.pi.builder import at
from flux_runtime.cuda.pi.launches import Activation, Adaptive, Heads, LaunchBuilder, Linear, Mask
from flux_runtime.cuda.plan import DType, LaunchPlan, Pointer
from flux_runtime.cuda.recipes import as_bfloat16, as_float32
from flux_runtime.cuda.tiles import Tiles

Array = NDArray[Any]
TILES: Mapping[str, Mapping[str, int]] = {
    "linear": {"BM": 16, "BN": 32, "BK": 16},
    "geglu": {"BM": 16, "BN": 16, "BK": 32},
    "euler": {"BM": 16, "BN": 16, "BK": 32},
    "qkv_rope": {"BM": 16, "BN": 8, "BK": 32},
    "attention": {"BM": 16, "BN": 16},
    "combine": {"BM": 16},
    "patches": {"BM": 16, "BN": 16, "BK": 64},
    "embed": {"BN": 32},
    "start": {"BM": 16, "BN": 16},
}
"""Small, so that each problem has several programs along each axis."""
TIMES, TIME_ROW, NUM_KNOWN = 4, 3, 5
"""The last row of a table of times: whatever is read behind it is outside."""
EPS = 0.03
"""Of all norms; large enough to be seen in the results."""
ONE_KEY_HEAD, TWO_KEY_HEADS = (Heads(queries=4, keys=n, dim=d) for n, d in ((1, 32), (2, 24)))


@dataclass(frozen=True)
class Problem:
    """A launch and its answer.

    Attributes:
        plan: with one launch, or two that belong together.
        values: of all inputs; float64 where the memory is float32 or bfloat16.
        expected: the answer by name; NaN where nothing may be written.
    """

    plan: LaunchPlan
    values: Mapping[str, Array]
    expected: Mapping[str, Array]


class Draft(LaunchBuilder):
    """A problem that is being made: tiles are small, and inputs are drawn."""

    def __init__(self, dtype: DType, seed: int) -> None:
        super().__init__("", dtype)
        self.stage, self.random, self.values = "test", np.random.default_rng(seed), {}
        self.expected: dict[str, Array] = {}
        self.larger: Mapping[str, int] = {}
        self.num_tokens, _ = self.integers("num_tokens", np.array([3]))
        self.num_known, _ = self.integers("num_known", np.array([NUM_KNOWN]))

    def tiles(
        self,
        kernel: str,
        rows: int,
        columns: int = 0,
        depth: int = 0,
        weight: Pointer | None = None,
    ) -> Tiles:
        """Small tiles, apart from those of `with_tiles`."""
        return Tiles(constants={**TILES[kernel], **self.larger})

    def with_tiles(self, **larger: int) -> Draft:
        """Itself, with other tiles: kernels load in another order where there are few registers."""
        self.larger = larger
        return self

    def integers(self, name: str, values: Array, dtype: DType = "i32") -> tuple[Pointer, Array]:
        """An input of whole numbers."""
        self.values[name] = values
        return self.buffer(name, "input", dtype, *values.shape), values

    def drawn(
        self, name: str, *shape: int, dtype: DType | None = None, scale: float = 1.0
    ) -> tuple[Pointer, Array]:
        """An input with random values, exactly as its memory holds them."""
        dtype = dtype or self.dtype
        values = (self.random.normal(size=shape) * scale).astype(np.float32)
        if dtype == "bf16":
            values = as_float32(as_bfloat16(values))
        self.values[name] = values.astype(np.float64)
        return self.buffer(name, "input", dtype, *shape), self.values[name]

    def out(self, name: str, answer: Array, dtype: DType | None = None, spare: int = 2) -> Pointer:
        """Memory for an answer, with spare rows behind it that nothing may touch."""
        untouched = np.full((spare, *answer.shape[1:]), np.nan)
        self.expected[name] = np.concatenate((answer, untouched))
        return self.work(name, *self.expected[name].shape, dtype=dtype)

    def problem(self, name: str) -> Problem:
        """Returns the problem."""
        return Problem(self.plan(name), self.values, self.expected)


def by_time(table: Array, rows: int) -> Array:
    """(rows, width) of a table: row 0 for known rows, TIME_ROW for the others."""
    return table[np.where(np.arange(rows) < NUM_KNOWN, 0, TIME_ROW)]


def gelu(x: Array) -> Array:
    """Its tanh approximation."""
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def rms_normed(x: Array) -> Array:
    """Rows over their root mean square."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS)


def linear(
    draft: Draft,
    sizes: tuple[int, int, int] = (37, 45, 50),
    *,
    normed: bool = False,
    bias: int = 0,
    activation: Activation = "none",
    residual: int = 0,
    wide: bool = False,
) -> None:
    """A linear layer; `wide` is a float32 product whose result is the stream."""
    rows, columns, depth = sizes
    product: DType | None = "fp32" if wide else None
    x_at, x = draft.drawn("x", rows, depth, dtype=product)
    weight_at, weight = draft.drawn("weight", columns, depth, dtype=product, scale=depth**-0.5)
    layer = Linear(weight=weight_at)
    answer = x @ weight.T
    if normed:
        x = x + 0.5
        draft.values["x"] = x if draft.dtype == "fp32" or wide else rounded(x)
        x = draft.values["x"]
        sums, _ = draft.drawn("sums", columns, dtype="fp32")
        draft.values["sums"] = weight.sum(axis=1)
        layer = Linear(weight=weight_at, sums=sums, eps=EPS)
        centred = x - x.mean(axis=1, keepdims=True)
        answer = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPS) @ weight.T
    if bias:
        shape = (columns,) if bias == 1 else (TIMES, columns)
        bias_at, values = draft.drawn("bias", *shape, dtype="fp32")
        layer = Linear(
            weight=weight_at, bias=bias_at, by_time=bias == 2, sums=layer.sums, eps=layer.eps
        )
        answer = answer + (values if bias == 1 else by_time(values, rows))
    answer = {"none": answer, "gelu": gelu(answer), "silu": answer / (1 + np.exp(-answer))}[
        activation
    ]
    gate_at = residual_at = None
    if residual == 2:
        gate_at, gate = draft.drawn("gate", TIMES, columns, dtype="fp32")
        answer = answer * by_time(gate, rows)
    if residual:
        residual_at, before = draft.drawn("residual", rows, columns)
        answer = answer + before
    draft.linear(
        layer,
        x_at,
        draft.out("out", answer),
        rows,
        activation=activation,
        residual=residual_at,
        gate=gate_at,
        time_row=TIME_ROW,
    )


def rounded(values: Array) -> Array:
    """To bfloat16, as float64."""
    return as_float32(as_bfloat16(values.astype(np.float32))).astype(np.float64)


def _adaptive(draft: Draft, depth: int, **columns: int) -> tuple[Adaptive, Array, list[Array]]:
    scale_at, scale = draft.drawn("scale", TIMES, depth, dtype="fp32")
    biases = [draft.drawn(f"{name}_bias", TIMES, n, dtype="fp32") for name, n in columns.items()]
    tables = Adaptive(scale=scale_at, biases=tuple(pointer for pointer, _ in biases))
    return tables, scale, [values for _, values in biases]


def geglu(
    draft: Draft, sizes: tuple[int, int, int] = (37, 45, 50), *, adaptive: bool = False
) -> None:
    """Both projections of a gated MLP."""
    rows, columns, depth = sizes
    x_at, x = draft.drawn("x", rows, depth, scale=2.0)
    gate_at, gate = draft.drawn("gate", columns, depth, scale=depth**-0.5)
    up_at, up = draft.drawn("up", columns, depth, scale=depth**-0.5)
    tables, normed, shifts = None, rms_normed(x), [np.zeros((TIMES, columns))] * 2
    if adaptive:
        tables, scale, shifts = _adaptive(draft, depth, gate=columns, up=columns)
        normed = normed * by_time(scale, rows)
    gated, upped = (
        normed @ weight.T + by_time(shift, rows)
        for weight, shift in zip((gate, up), shifts, strict=True)
    )
    out = draft.out("out", gelu(gated) * upped)
    draft.geglu(gate_at, up_at, x_at, out, rows, eps=EPS, adaptive=tables, time_row=TIME_ROW)


def euler(
    draft: Draft,
    sizes: tuple[int, int, int] = (37, 20, 50),
    *,
    adaptive: bool = False,
    live: int = 17,
) -> None:
    """An Euler step with known rows and padding."""
    rows, columns, depth = sizes
    x_at, x = draft.drawn("x", rows, depth, scale=2.0)
    weight_at, weight = draft.drawn("weight", columns, depth, dtype="fp32", scale=depth**-0.5)
    x_t_at, x_t = draft.drawn("x_t", rows, columns, dtype="fp32")
    if adaptive:
        tables, scale, (bias,) = _adaptive(draft, depth, out=columns)
        layer = Linear(weight=weight_at)
        change = (rms_normed(x) * by_time(scale, rows)) @ weight.T + by_time(bias, rows)
    else:
        tables, (bias_at, bias) = None, draft.drawn("bias", columns, dtype="fp32")
        layer = Linear(weight=weight_at, bias=bias_at)
        change = rms_normed(x) @ weight.T + bias
    moved = np.where(np.arange(columns) < live, x_t + change, x_t * (TIME_ROW - 1) / TIME_ROW)
    answer = np.where(np.arange(rows)[:, None] < NUM_KNOWN, x_t, moved)
    draft.euler(
        *(layer, x_at, x_t_at, draft.out("out", answer, "fp32"), rows),
        live_columns=live,
        time_row=TIME_ROW,
        eps=EPS,
        adaptive=tables,
    )


def qkv_rope(
    draft: Draft,
    *,
    rows: int = 21,
    depth: int = 50,
    heads: Heads = ONE_KEY_HEAD,
    adaptive: bool = False,
    only_keys: bool = False,
    behind_prompt: bool = False,
) -> None:
    """Rotated projections; keys and values go behind rows that nothing may touch."""
    first_row, first_position, positions = 6, 3, 6 + rows
    width = heads.queries + 2 * heads.keys
    x_at, x = draft.drawn("x", rows, depth, scale=2.0)
    weight_at, weight = draft.drawn("weight", width * heads.dim, depth, scale=depth**-0.5)
    angles_at, angles = draft.drawn("angles", positions, heads.dim, dtype="fp32")
    tables, normed = None, rms_normed(x)
    shift = np.zeros((TIMES, width * heads.dim))
    if adaptive:
        tables, scale, (shift,) = _adaptive(draft, depth, qkv=width * heads.dim)
        normed = normed * by_time(scale, rows)
    result = (normed @ weight.T + by_time(shift, rows)).reshape(rows, width, heads.dim)
    start = first_position + (3 if behind_prompt else 0)
    cos, sin = np.split(angles[start : start + rows, None], 2, axis=-1)
    first, second = np.split(result, 2, axis=-1)
    turned = np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    queries, keys = turned[:, : heads.queries], turned[:, heads.queries : -heads.keys]
    values = result[:, -heads.keys :]
    untouched = np.full((first_row, heads.keys, heads.dim), np.nan)
    if only_keys:
        queries = np.full_like(queries, np.nan)
    out = (
        draft.out("queries", queries),
        draft.out("keys", np.concatenate((untouched, keys))),
        draft.out("values", np.concatenate((untouched, values))),
    )
    draft.qkv_rope(
        *(weight_at, x_at, out, rows),
        heads=heads,
        angles=angles_at,
        first_row=first_row,
        first_position=first_position,
        behind_prompt=behind_prompt,
        eps=EPS,
        only_keys=only_keys,
        adaptive=tables,
        time_row=TIME_ROW,
    )


def attention(
    draft: Draft,
    *,
    heads: Heads = TWO_KEY_HEADS,
    num_queries: int = 11,
    num_keys: int = 45,
    pictures: int = 1,
    mask: Mask | None = None,
    splits: int = 1,
    packed: bool = False,
) -> None:
    """Attention; `packed` has queries, keys and values side by side, as the vision tower."""
    tokens, width = pictures * num_queries, heads.queries * heads.dim
    if packed:
        all_at, everything = draft.drawn("qkv", tokens, 3 * width)
        q, k, v = (part.reshape(tokens, -1, heads.dim) for part in np.split(everything, 3, axis=1))
        memory, strides = (all_at, at(all_at, width), at(all_at, 2 * width)), (3 * width,) * 2
    else:
        q_at, q = draft.drawn("queries", tokens, heads.queries, heads.dim)
        k_at, k = draft.drawn("keys", pictures * num_keys, heads.keys, heads.dim)
        v_at, v = draft.drawn("values", pictures * num_keys, heads.keys, heads.dim)
        memory, strides = (q_at, k_at, v_at), (width, heads.keys * heads.dim)
    seen = np.ones((num_queries, num_keys), bool)
    if mask is not None:
        number, query = np.arange(num_keys), np.arange(num_queries)[:, None]
        seen = (number < mask.image_tokens + 3) | (number >= mask.prefix_end)
        seen = seen & (
            (query >= mask.state_tokens) | (number < mask.prefix_end + mask.state_tokens)
        )
    answer = np.concatenate(
        [
            _attended(q_part, k_part, v_part, heads.group, seen)
            for q_part, k_part, v_part in zip(
                *(np.split(part, pictures) for part in (q, k, v)), strict=True
            )
        ]
    )
    parts = None
    if splits > 1:
        shape = (splits, num_queries, heads.queries)
        parts = (
            draft.work("parts", *shape, heads.dim, dtype="fp32"),
            draft.work("statistics", splits, 2, *shape[1:], dtype="fp32"),
        )
    draft.attention(
        *memory,
        draft.out("out", answer),
        heads=heads,
        num_queries=num_queries,
        num_keys=num_keys,
        strides=(*strides, width),
        pictures=pictures,
        mask=mask,
        parts=parts,
    )


def _attended(q: Array, k: Array, v: Array, group: int, seen: Array) -> Array:
    """(tokens, heads, dim), in float64."""
    k, v = (np.repeat(part, group, axis=1) for part in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) * q.shape[2] ** -0.5
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    return np.einsum("hts,shd->thd", weights / weights.sum(axis=2, keepdims=True), v)


def combine(draft: Draft, *, splits: int = 3, rows: int = 37, dim: int = 24) -> None:
    """The sum of parts alone; the last part has seen no key."""
    parts_at, parts = draft.drawn("parts", splits, rows, dim, dtype="fp32")
    statistics_at, statistics = draft.drawn("statistics", splits, 2, rows, dtype="fp32")
    statistics[:, 1] = np.abs(statistics[:, 1]) + 0.5
    statistics[-1, 0], statistics[-1, 1], parts[-1] = -1e30, 0.0, 0.0
    weights = np.exp2(statistics[:, 0] - statistics[:, 0].max(axis=0))
    total = (weights * statistics[:, 1]).sum(axis=0)
    answer = (weights[..., None] * parts).sum(axis=0) / total[:, None]
    sizes = {"D": dim, "PADDED_D": 32, "SPLITS": splits}
    out = draft.out("out", answer)
    grid = (-(-rows // TILES["combine"]["BM"]), 1, 1)
    tiles = draft.tiles("combine", rows, 0, dim)
    draft.launch("test", "combine", (parts_at, statistics_at, out, rows), grid, tiles, sizes)


def patches(draft: Draft, *, pictures: int = 2, side: int = 5, patch: int = 6) -> None:
    """Patch embedding of pictures of cameras 2 and 0."""
    size, columns, depth, padded = side * patch, 21, patch * patch * 3, 112
    shape = (pictures, size, size, 3)
    pixels = draft.random.integers(0, 256, shape)
    images_at, _ = draft.integers("images", pixels, "u8")
    cameras_at, cameras = draft.integers("cameras", np.array([2, 0])[:pictures])
    scale_at, scale = draft.drawn("scale", 3, 3, dtype="fp32", scale=0.01)
    offset_at, offset = draft.drawn("offset", 3, 3, dtype="fp32")
    weight_at, weight = draft.drawn("weight", columns, padded, scale=depth**-0.5)
    weight[:, depth:] = 0.0
    table_at, table = draft.drawn("table", side * side, columns, dtype="fp32")
    values = pixels * scale[cameras, None, None] + offset[cameras, None, None]
    if draft.dtype == "bf16":
        values = rounded(values)
    cut = values.reshape(pictures, side, patch, side, patch, 3).swapaxes(2, 3)
    rows = cut.reshape(pictures, side * side, depth)
    answer = (rows @ weight[:, :depth].T + table).reshape(-1, columns)
    out = draft.out("out", answer)
    draft.patches(
        images_at, cameras_at, (scale_at, offset_at), weight_at, table_at, out, patch=patch
    )


def embed(draft: Draft, *, tokens: int = 9, width: int = 45) -> None:
    """The words of a prompt."""
    tokens_at, chosen = draft.integers("tokens", draft.random.integers(0, 30, tokens))
    words_at, words = draft.drawn("words", 30, width)
    draft.embed(tokens_at, words_at, draft.out("out", words[chosen] * np.float32(width**0.5)))


def start(draft: Draft, *, rows: int = 37, columns: int = 20) -> None:
    """The first x_t. Noise in known rows and known actions in others are never read."""
    noise_at, noise = draft.drawn("noise", rows, columns, dtype="fp32")
    known_at, known = draft.drawn("known", rows, columns, dtype="fp32")
    noise[:NUM_KNOWN], known[NUM_KNOWN:] = np.nan, np.nan
    answer = np.concatenate((known[:NUM_KNOWN], noise[NUM_KNOWN:]))
    draft.start(noise_at, known_at, draft.out("x_t", answer, "fp32", spare=0))


SUFFIX = Mask(image_tokens=20, prefix_end=30, state_tokens=1)
PROBLEMS: Mapping[str, Callable[[Draft], None]] = {
    "linear": lambda d: linear(d),
    "linear, depth divides": lambda d: linear(d, (37, 45, 48), bias=1, activation="gelu"),
    "linear, layer norm": lambda d: linear(d, normed=True, bias=1),
    "linear, bias by time": lambda d: linear(d, bias=2, activation="silu", wide=True),
    "linear, residual": lambda d: linear(d, residual=1),
    "linear, gated residual": lambda d: linear(d, (16, 32, 50), residual=2),
    "linear, large tiles": lambda d: linear(d.with_tiles(BM=64, BN=64), (70, 75, 50), residual=1),
    "linear, less than a tile": lambda d: linear(d, (10, 3, 5), bias=2, residual=2),
    "linear, one row": lambda d: linear(d, (1, 45, 14), bias=1, wide=True),
    "geglu": lambda d: geglu(d),
    "geglu, adaptive": lambda d: geglu(d, (37, 45, 64), adaptive=True),
    "geglu, less than a tile": lambda d: geglu(d, (10, 3, 5), adaptive=True),
    "euler": lambda d: euler(d),
    "euler, adaptive": lambda d: euler(d, (10, 32, 64), adaptive=True),
    "qkv_rope": lambda d: qkv_rope(d),
    "qkv_rope, keys only": lambda d: qkv_rope(d, depth=64, only_keys=True),
    "qkv_rope, suffix": lambda d: qkv_rope(d, adaptive=True, behind_prompt=True),
    "qkv_rope, large tiles": lambda d: qkv_rope(d.with_tiles(BM=128, BN=16), rows=130),
    "qkv_rope, less than a tile": lambda d: qkv_rope(d, depth=5, adaptive=True),
    "qkv_rope, two key heads": lambda d: qkv_rope(d, heads=Heads(queries=4, keys=2, dim=16)),
    "attention": lambda d: attention(d),
    "attention, pictures": lambda d: attention(
        d, heads=Heads(queries=3, keys=3, dim=24), num_keys=11, pictures=3, packed=True
    ),
    "attention, padded prompt": lambda d: attention(
        d, num_queries=45, mask=Mask(image_tokens=20, prefix_end=45)
    ),
    "attention, suffix": lambda d: attention(
        d, heads=Heads(queries=4, keys=1, dim=32), mask=SUFFIX, splits=3
    ),
    "attention, empty part": lambda d: attention(d, num_keys=33, mask=SUFFIX, splits=3),
    "combine": lambda d: combine(d),
    "patches": lambda d: patches(d),
    "embed": lambda d: embed(d),
    "start": lambda d: start(d),
}


def make(name: str, dtype: DType, seed: int) -> Problem:
    """Returns a problem by name."""
    draft = Draft(dtype, seed)
    PROBLEMS[name](draft)
    return draft.problem(name)
