"""Attention: rotated projections, attention over keys, and the sum of its parts."""

import triton
import triton.language as tl

from .linear import _by_time


@triton.jit(do_not_specialize=["M", "first_head", "first_row", "first_position", "time_row"])
def qkv_rope(
    x,
    weight,
    scale,
    bias,
    angles,
    queries,
    keys,
    values,
    num_tokens,
    num_known,
    M,
    K,
    first_head,
    first_row,
    first_position,
    time_row,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    BEHIND_PROMPT: tl.constexpr,
    EVEN_K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Queries, keys and values of norm(x), with an RMS norm; queries and keys are rotated.

    A program computes BN dimensions of the first half of one head, and the BN of the second half
    that are rotated with them. Norm, scale and bias are as in `geglu`.

    Args:
        x: (M, K).
        weight: ((HEADS + 2 * KV_HEADS) * D, K): queries, keys, values.
        scale: (times, K) float32, with ADAPTIVE.
        bias: (times, weight's rows) float32, with ADAPTIVE.
        angles: (positions, D) float32, cos beside sin.
        queries: (M, HEADS, D).
        keys, values: (tokens, KV_HEADS, D), written from token `first_row` on.
        num_tokens: (1,) int32, tokens of the prompt.
        num_known: (1,) int32.
        first_head: 0, or HEADS to leave the queries out.
        first_position: of row 0; behind the prompt's tokens with BEHIND_PROMPT.
    """
    HALF: tl.constexpr = D // 2
    PARTS: tl.constexpr = HALF // BN
    head = first_head + tl.program_id(1) // PARTS
    dims = (tl.program_id(1) % PARTS) * BN + tl.arange(0, BN)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    row_ok = rows < M
    columns = head * D + dims
    is_known = rows < tl.load(num_known)
    # What the end needs is loaded before the loop where there are registers for it.
    EARLY: tl.constexpr = BM * BN <= 1024
    positions = first_position + rows
    if BEHIND_PROMPT:
        positions += tl.load(num_tokens)
    turn = angles + positions[:, None] * D + dims[None, :]
    turn_ok = row_ok[:, None] & (columns < (HEADS + KV_HEADS) * D)[None, :]
    if EARLY:
        cos = tl.load(turn, mask=turn_ok, other=1.0)
        sin = tl.load(turn + HALF, mask=turn_ok, other=0.0)
    first = tl.zeros((BM, BN), tl.float32)
    second = tl.zeros((BM, BN), tl.float32)
    squares = tl.zeros((BM,), tl.float32)
    for begin in range(0, K, BK):
        depth = begin + tl.arange(0, BK)
        depth_ok = depth < K
        a_ok = row_ok[:, None] if EVEN_K else row_ok[:, None] & depth_ok[None, :]
        a = tl.load(x + rows[:, None] * K + depth[None, :], mask=a_ok, other=0.0)
        wide = a.to(tl.float32)
        squares += tl.sum(wide * wide, axis=1)
        if ADAPTIVE:
            factor = _by_time(scale, depth, K, is_known, time_row, depth_ok)
            a = (wide * factor).to(weight.dtype.element_ty)
        at = weight + columns[None, :] * K + depth[:, None]
        if EVEN_K:
            w1 = tl.load(at)
            w2 = tl.load(at + HALF * K)
        else:
            w1 = tl.load(at, mask=depth_ok[:, None], other=0.0)
            w2 = tl.load(at + HALF * K, mask=depth_ok[:, None], other=0.0)
        first = tl.dot(a, w1, first, input_precision="ieee")
        second = tl.dot(a, w2, second, input_precision="ieee")
    rstd = tl.rsqrt(squares / K + eps)[:, None]
    first = first * rstd
    second = second * rstd
    if ADAPTIVE:
        WIDTH: tl.constexpr = (HEADS + 2 * KV_HEADS) * D
        everywhere = dims < HALF
        first += _by_time(bias, columns, WIDTH, is_known, time_row, everywhere)
        second += _by_time(bias, columns + HALF, WIDTH, is_known, time_row, everywhere)
    if not EARLY:
        cos = tl.load(turn, mask=turn_ok, other=1.0)
        sin = tl.load(turn + HALF, mask=turn_ok, other=0.0)
    # Values are not rotated: their cos is 1 and their sin 0.
    rotated = first * cos - second * sin
    second = second * cos + first * sin
    first = rotated
    if head < HEADS:
        to = queries + (rows * HEADS + head)[:, None] * D
    elif head < HEADS + KV_HEADS:
        to = keys + ((first_row + rows) * KV_HEADS + head - HEADS)[:, None] * D
    else:
        to = values + ((first_row + rows) * KV_HEADS + head - HEADS - KV_HEADS)[:, None] * D
    to += dims[None, :]
    tl.store(to, first.to(queries.dtype.element_ty), mask=row_ok[:, None])
    tl.store(to + HALF, second.to(queries.dtype.element_ty), mask=row_ok[:, None])


@triton.jit(do_not_specialize=["T", "S", "image_tokens", "prefix_end", "state_tokens"])
def attention(
    queries,
    keys,
    values,
    out,
    parts,
    statistics,
    num_tokens,
    T,
    S,
    query_stride,
    key_stride,
    out_stride,
    image_tokens,
    prefix_end,
    state_tokens,
    scale,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PADDED_D: tl.constexpr,
    MASKED: tl.constexpr,
    SPLITS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Attention of T tokens over S keys, for each key head and each picture of a batch.

    The GROUP query heads of a key head are further rows, so keys are read once for all of them.
    Axis 1 of the grid is the key head; axis 2 is the picture times SPLITS, and each of the SPLITS
    programs takes a part of the keys. With several, `combine` adds the parts.

    Args:
        queries, keys, values: (batch, T or S, heads, D), with `query_stride` and `key_stride`
            elements from token to token.
        out: like the queries, with `out_stride`; written if SPLITS is 1.
        parts: (SPLITS, T, heads, D) float32: the parts, not divided by their sums.
        statistics: (SPLITS, 2, T, heads) float32: largest score (in powers of 2) and sum of a part.
        num_tokens: (1,) int32, tokens of the prompt.
        image_tokens: with MASKED, keys from image_tokens + num_tokens to `prefix_end` are padding.
        state_tokens: so many first tokens see only themselves behind `prefix_end`.
        scale: of the scores, times log2(e).
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    key_head = tl.program_id(1)
    picture = tl.program_id(2) // SPLITS
    split = tl.program_id(2) % SPLITS
    token = rows // GROUP
    head = key_head * GROUP + rows % GROUP
    row_ok = token < T
    dims = tl.arange(0, PADDED_D)
    dim_ok = dims < D
    from_q = queries + picture * T * query_stride + token * query_stride + head * D
    q = tl.load(from_q[:, None] + dims[None, :], mask=row_ok[:, None] & dim_ok[None, :], other=0.0)
    start = picture * S * key_stride + key_head * D
    largest = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, PADDED_D), tl.float32)
    per_split = (S + SPLITS * BN - 1) // (SPLITS * BN) * BN
    first_key = split * per_split
    end_key = tl.minimum(first_key + per_split, S)
    if MASKED:
        prompt_end = image_tokens + tl.load(num_tokens)
    for begin in range(first_key, end_key, BN):
        at = begin + tl.arange(0, BN)
        key_ok = at < end_key
        k = tl.load(
            keys + start + at[None, :] * key_stride + dims[:, None],
            mask=key_ok[None, :] & dim_ok[:, None],
            other=0.0,
        )
        scores = tl.dot(q, k, input_precision="ieee") * scale
        if MASKED:
            is_real = key_ok & ((at < prompt_end) | (at >= prefix_end))
            is_before = at < prefix_end + state_tokens
            seen = is_real[None, :] & ((token >= state_tokens)[:, None] | is_before[None, :])
        else:
            seen = key_ok[None, :] & row_ok[:, None]
        scores = tl.where(seen, scores, -1e30)
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        p = tl.where(seen, tl.exp2(scores - new_largest[:, None]), 0.0)
        fade = tl.exp2(largest - new_largest)
        total = total * fade + tl.sum(p, axis=1)
        v = tl.load(
            values + start + at[:, None] * key_stride + dims[None, :],
            mask=key_ok[:, None] & dim_ok[None, :],
            other=0.0,
        )
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
        largest = new_largest
    heads = tl.num_programs(1) * GROUP
    inside = row_ok[:, None] & dim_ok[None, :]
    if SPLITS == 1:
        acc = acc / tl.maximum(total, 1e-30)[:, None]
        to = out + (picture * T + token) * out_stride + head * D
        tl.store(to[:, None] + dims[None, :], acc.to(out.dtype.element_ty), mask=inside)
    else:
        row = token * heads + head
        to = parts + (split * T * heads + row) * D
        tl.store(to[:, None] + dims[None, :], acc, mask=inside)
        to_sums = statistics + split * 2 * T * heads + row
        tl.store(to_sums, largest, mask=row_ok)
        tl.store(to_sums + T * heads, total, mask=row_ok)


@triton.jit(do_not_specialize=["R"])
def combine(
    parts,
    statistics,
    out,
    R,
    D: tl.constexpr,
    PADDED_D: tl.constexpr,
    SPLITS: tl.constexpr,
    BM: tl.constexpr,
):
    """Adds the parts of `attention`, weighted by what each part's softmax lacks.

    Args:
        parts: (SPLITS, R, D) float32; R is tokens times heads.
        statistics: (SPLITS, 2, R) float32.
        out: (R, D).
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    row_ok = rows < R
    dims = tl.arange(0, PADDED_D)
    inside = row_ok[:, None] & (dims < D)[None, :]
    largest = tl.full((BM,), -1e30, tl.float32)
    for split in tl.static_range(SPLITS):
        score = tl.load(statistics + split * 2 * R + rows, mask=row_ok, other=-1e30)
        largest = tl.maximum(largest, score)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, PADDED_D), tl.float32)
    for split in tl.static_range(SPLITS):
        score = tl.load(statistics + split * 2 * R + rows, mask=row_ok, other=-1e30)
        weight = tl.exp2(score - largest)
        total += weight * tl.load(statistics + (split * 2 + 1) * R + rows, mask=row_ok, other=0.0)
        part = tl.load(
            parts + (split * R + rows)[:, None] * D + dims[None, :], mask=inside, other=0.0
        )
        acc += weight[:, None] * part
    acc = acc / tl.maximum(total, 1e-30)[:, None]
    tl.store(out + rows[:, None] * D + dims[None, :], acc.to(out.dtype.element_ty), mask=inside)
