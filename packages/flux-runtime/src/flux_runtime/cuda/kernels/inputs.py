"""What turns the inputs of a plan into streams: pictures, words, and the first actions."""

import triton
import triton.language as tl


@triton.jit
def patches(
    images,
    cameras,
    scale,
    offset,
    weight,
    table,
    out,
    N,
    SIZE: tl.constexpr,
    PATCH: tl.constexpr,
    PADDED_K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Patch embedding of normalised pictures, plus `table`. Axis 2 of the grid is the picture.

    Args:
        images: (pictures, SIZE, SIZE, 3) uint8.
        cameras: (pictures,) int32, the row of `scale` and `offset` of each.
        scale, offset: (cameras, 3) float32, from a pixel to what the network takes.
        weight: (N, PADDED_K), in the order of a patch's pixels: row, column, channel; then zeros.
        table: (patches, N) float32, added to each picture: bias and position embedding.
        out: (pictures * patches, N).
    """
    SIDE: tl.constexpr = SIZE // PATCH
    PATCHES: tl.constexpr = SIDE * SIDE
    RUN: tl.constexpr = PATCH * 3
    picture = tl.program_id(2)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    row_ok = rows < PATCHES
    column_ok = columns < N
    camera = tl.load(cameras + picture)
    corner = ((picture * SIZE + rows // SIDE * PATCH) * SIZE + rows % SIDE * PATCH) * 3
    acc = tl.zeros((BM, BN), tl.float32)
    for begin in range(0, PADDED_K, BK):
        depth = begin + tl.arange(0, BK)
        pixel_ok = depth < PATCH * RUN
        inside = depth // RUN * SIZE * 3 + depth % RUN
        pixels = tl.load(
            images + corner[:, None] + inside[None, :],
            mask=row_ok[:, None] & pixel_ok[None, :],
            other=0,
        )
        channel = camera * 3 + depth % 3
        factor = tl.load(scale + channel, mask=pixel_ok, other=0.0)
        shift = tl.load(offset + channel, mask=pixel_ok, other=0.0)
        a = pixels.to(tl.float32) * factor[None, :] + shift[None, :]
        w = tl.load(
            weight + columns[None, :] * PADDED_K + depth[:, None],
            mask=column_ok[None, :] & (depth < PADDED_K)[:, None],
            other=0.0,
        )
        acc = tl.dot(a.to(w.dtype), w, acc, input_precision="ieee")
    at = rows[:, None] * N + columns[None, :]
    ok = row_ok[:, None] & column_ok[None, :]
    acc += tl.load(table + at, mask=ok, other=0.0)
    tl.store(out + picture * PATCHES * N + at, acc.to(out.dtype.element_ty), mask=ok)


@triton.jit
def embed(tokens, table, out, N, scale, BN: tl.constexpr):
    """out[i] = table[tokens[i]] * scale. Axis 0 of the grid is i, axis 1 a part of the row.

    Args:
        tokens: (tokens,) int32, valid rows of the table.
        table: (vocabulary, N).
        out: (tokens, N).
    """
    row = tl.program_id(0)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    column_ok = columns < N
    token = tl.load(tokens + row).to(tl.int64)
    words = tl.load(table + token * N + columns, mask=column_ok, other=0.0).to(tl.float32)
    tl.store(out + row * N + columns, (words * scale).to(out.dtype.element_ty), mask=column_ok)


@triton.jit(do_not_specialize=["M"])
def start(noise, known, num_known, x_t, M, N, BM: tl.constexpr, BN: tl.constexpr):
    """x_t = the known actions in their rows, noise in all others; each is (M, N) float32."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    at = rows[:, None] * N + columns[None, :]
    ok = (rows < M)[:, None] & (columns < N)[None, :]
    is_known = (rows < tl.load(num_known))[:, None]
    clean = tl.load(known + at, mask=ok & is_known, other=0.0)
    noisy = tl.load(noise + at, mask=ok & (rows >= tl.load(num_known))[:, None], other=0.0)
    tl.store(x_t + at, tl.where(is_known, clean, noisy), mask=ok)
