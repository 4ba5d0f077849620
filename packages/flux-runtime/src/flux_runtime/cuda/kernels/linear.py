"""Linear layers: everything that is a product with one weight matrix."""

import triton
import triton.language as tl


@triton.jit
def _gelu(x):
    """The tanh approximation of GELU; `x * (1 + tanh(z)) / 2` is `x * sigmoid(2 z)`."""
    z = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x / (1.0 + tl.exp(-2.0 * z))


@triton.jit
def _by_time(table, columns, width, is_known, time_row, mask):
    """(rows, columns) of a table with one row per time: row 0 where `is_known`, else `time_row`."""
    clean = tl.load(table + columns, mask=mask, other=0.0).to(tl.float32)
    noisy = tl.load(table + time_row * width + columns, mask=mask, other=0.0).to(tl.float32)
    return tl.where(is_known[:, None], clean[None, :], noisy[None, :])


@triton.jit(do_not_specialize=["M", "time_row"])
def linear(
    x,
    weight,
    bias,
    weight_sums,
    gate,
    residual,
    out,
    num_known,
    M,
    N,
    K,
    time_row,
    eps,
    LAYER_NORM: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    EVEN_K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out = residual + gate * activation(norm(x) @ weight.T + bias).

    A layer norm is applied behind the product: its scale is part of the weight, its offset part of
    the bias, and `weight_sums` takes the mean out again.

    Args:
        x: (M, K).
        weight: (N, K).
        bias: (N,) with BIAS 1, (times, N) with BIAS 2.
        weight_sums: (N,) sums of the weight's rows, with LAYER_NORM.
        gate: (times, N) with RESIDUAL 2.
        residual: (M, N); may be `out`.
        out: (M, N).
        num_known: (1,) int32.
        ACTIVATION: 0 none, 1 GELU, 2 SiLU.
        RESIDUAL: 0 none, 1 added, 2 added to the gated product.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    row_ok = rows < M
    column_ok = columns < N
    at = rows[:, None] * N + columns[None, :]
    inside = row_ok[:, None] & column_ok[None, :]
    # What the end needs is loaded before the loop where there are registers for it.
    EARLY: tl.constexpr = BM * BN <= 2048
    is_known = rows < tl.load(num_known)
    if BIAS == 1:
        shift = tl.load(bias + columns, mask=column_ok, other=0.0).to(tl.float32)[None, :]
    if BIAS == 2:
        shift = _by_time(bias, columns, N, is_known, time_row, column_ok)
    if RESIDUAL == 2:
        factor = _by_time(gate, columns, N, is_known, time_row, column_ok)
    if RESIDUAL > 0 and EARLY:
        before = tl.load(residual + at, mask=inside, other=0.0)
    acc = tl.zeros((BM, BN), tl.float32)
    sums = tl.zeros((BM,), tl.float32)
    squares = tl.zeros((BM,), tl.float32)
    for begin in range(0, K, BK):
        depth = begin + tl.arange(0, BK)
        if EVEN_K:
            a_ok = row_ok[:, None]
            w_ok = column_ok[None, :]
        else:
            a_ok = row_ok[:, None] & (depth < K)[None, :]
            w_ok = column_ok[None, :] & (depth < K)[:, None]
        a = tl.load(x + rows[:, None] * K + depth[None, :], mask=a_ok, other=0.0)
        w = tl.load(weight + columns[None, :] * K + depth[:, None], mask=w_ok, other=0.0)
        if LAYER_NORM:
            wide = a.to(tl.float32)
            sums += tl.sum(wide, axis=1)
            squares += tl.sum(wide * wide, axis=1)
        acc = tl.dot(a, w, acc, input_precision="ieee")
    if LAYER_NORM:
        mean = sums / K
        variance = tl.maximum(squares / K - mean * mean, 0.0)
        rstd = tl.rsqrt(variance + eps)
        ones = tl.load(weight_sums + columns, mask=column_ok, other=0.0)
        acc = (acc - mean[:, None] * ones[None, :]) * rstd[:, None]
    if BIAS > 0:
        acc += shift
    if ACTIVATION == 1:
        acc = _gelu(acc)
    if ACTIVATION == 2:
        acc = acc / (1.0 + tl.exp(-acc))
    if RESIDUAL == 2:
        acc = acc * factor
    if RESIDUAL > 0:
        if not EARLY:
            before = tl.load(residual + at, mask=inside, other=0.0)
        acc += before.to(tl.float32)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "time_row"])
def geglu(
    x,
    gate_weight,
    up_weight,
    scale,
    gate_bias,
    up_bias,
    out,
    num_known,
    M,
    N,
    K,
    time_row,
    eps,
    ADAPTIVE: tl.constexpr,
    EVEN_K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out = gelu(norm(x) @ gate_weight.T) * (norm(x) @ up_weight.T), with an RMS norm.

    The scale of a plain norm is part of the weights. With ADAPTIVE, `scale` multiplies the rows of
    x, and the norm's offset is part of the biases.

    Args:
        x: (M, K).
        gate_weight, up_weight: (N, K).
        scale: (times, K) float32.
        gate_bias, up_bias: (times, N) float32.
        out: (M, N).
        num_known: (1,) int32.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    row_ok = rows < M
    column_ok = columns < N
    is_known = rows < tl.load(num_known)
    gate = tl.zeros((BM, BN), tl.float32)
    up = tl.zeros((BM, BN), tl.float32)
    squares = tl.zeros((BM,), tl.float32)
    for begin in range(0, K, BK):
        depth = begin + tl.arange(0, BK)
        depth_ok = depth < K
        if EVEN_K:
            a_ok = row_ok[:, None]
            w_ok = column_ok[None, :]
        else:
            a_ok = row_ok[:, None] & depth_ok[None, :]
            w_ok = column_ok[None, :] & depth_ok[:, None]
        a = tl.load(x + rows[:, None] * K + depth[None, :], mask=a_ok, other=0.0)
        wide = a.to(tl.float32)
        squares += tl.sum(wide * wide, axis=1)
        if ADAPTIVE:
            factor = _by_time(scale, depth, K, is_known, time_row, depth_ok)
            a = (wide * factor).to(gate_weight.dtype.element_ty)
        at = columns[None, :] * K + depth[:, None]
        g = tl.load(gate_weight + at, mask=w_ok, other=0.0)
        gate = tl.dot(a, g, gate, input_precision="ieee")
        u = tl.load(up_weight + at, mask=w_ok, other=0.0)
        up = tl.dot(a, u, up, input_precision="ieee")
    rstd = tl.rsqrt(squares / K + eps)[:, None]
    gate = gate * rstd
    up = up * rstd
    if ADAPTIVE:
        gate += _by_time(gate_bias, columns, N, is_known, time_row, column_ok)
        up += _by_time(up_bias, columns, N, is_known, time_row, column_ok)
    at = rows[:, None] * N + columns[None, :]
    inside = row_ok[:, None] & column_ok[None, :]
    tl.store(out + at, (_gelu(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "time_row", "live_columns"])
def euler(
    x,
    weight,
    scale,
    bias,
    x_t,
    out,
    num_known,
    M,
    N,
    K,
    time_row,
    live_columns,
    shrink,
    eps,
    ADAPTIVE: tl.constexpr,
    EVEN_K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out = x_t + norm(x) @ weight.T + bias: one Euler step, with an RMS norm.

    The weight is that of the velocity times -1 / N. Known rows of x_t stay as they are. Columns
    from `live_columns` on are padding, whose actions are zero: x_t shrinks towards them.

    Args:
        x: (M, K) hidden states of the action tokens.
        weight: (N, K) float32; its rows of padding are not used.
        scale: (times, K) float32 with ADAPTIVE; otherwise it is part of the weight.
        bias: (times, N) float32 with ADAPTIVE, else (N,).
        x_t: (M, N) float32; may be `out`.
        out: (M, N) float32.
        num_known: (1,) int32.
        shrink: of the padding, t_next / t.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    row_ok = rows < M
    column_ok = columns < N
    at = rows[:, None] * N + columns[None, :]
    inside = row_ok[:, None] & column_ok[None, :]
    is_known = rows < tl.load(num_known)
    now = tl.load(x_t + at, mask=inside, other=0.0)
    if ADAPTIVE:
        shift = _by_time(bias, columns, N, is_known, time_row, column_ok)
    else:
        shift = tl.load(bias + columns, mask=column_ok, other=0.0)[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    squares = tl.zeros((BM,), tl.float32)
    for begin in range(0, K, BK):
        depth = begin + tl.arange(0, BK)
        depth_ok = depth < K
        if EVEN_K:
            a_ok = row_ok[:, None]
            w_ok = column_ok[None, :]
        else:
            a_ok = row_ok[:, None] & depth_ok[None, :]
            w_ok = column_ok[None, :] & depth_ok[:, None]
        a = tl.load(x + rows[:, None] * K + depth[None, :], mask=a_ok, other=0.0).to(tl.float32)
        squares += tl.sum(a * a, axis=1)
        if ADAPTIVE:
            a = a * _by_time(scale, depth, K, is_known, time_row, depth_ok)
        w = tl.load(weight + columns[None, :] * K + depth[:, None], mask=w_ok, other=0.0)
        acc = tl.dot(a, w, acc, input_precision="ieee")
    change = acc * tl.rsqrt(squares / K + eps)[:, None] + shift
    moved = tl.where((columns < live_columns)[None, :], now + change, now * shrink)
    tl.store(out + at, tl.where(is_known[:, None], now, moved), mask=inside)
