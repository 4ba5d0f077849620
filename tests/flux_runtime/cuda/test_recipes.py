"""How constants come from the tensors of a bundle."""

from __future__ import annotations

import numpy as np
import torch

from flux_runtime.cuda.recipes import (
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
    Type,
    Values,
    as_bfloat16,
    as_float32,
    evaluate,
)

RANDOM = np.random.default_rng(0)
WIDE = {
    "a": RANDOM.normal(size=(6, 4)).astype(np.float32),
    "b": RANDOM.normal(size=(3, 4)).astype(np.float32),
    "row": RANDOM.normal(size=4).astype(np.float32),
    "conv": RANDOM.normal(size=(5, 3, 2, 2)).astype(np.float32),
}
TENSORS = WIDE | {"half": as_bfloat16(WIDE["a"])}


def value(recipe: Recipe, dtype: Type = "fp32") -> np.ndarray:
    return evaluate(recipe, dtype, TENSORS.__getitem__)


def test_recipes_are_their_formulas() -> None:
    a, b, row = WIDE["a"], WIDE["b"], WIDE["row"]
    stored = {name: Stored(name=name) for name in TENSORS}
    assert np.array_equal(value(Rows(parts=(stored["a"], stored["b"]))), np.concatenate((a, b)))
    assert np.array_equal(value(ColumnRange(of=stored["a"], first=1, end=3)), a[:, 1:3])
    assert np.array_equal(value(Sum(parts=(stored["a"], stored["row"]), plus=1.0)), a + 1 + row)
    assert np.allclose(value(Scaled(of=stored["a"], columns=stored["row"], by=-2.0)), -2 * a * row)
    assert np.allclose(value(Applied(weight=stored["a"], rows=stored["b"])), b @ a.T)
    assert np.allclose(value(Applied(weight=stored["a"], rows=stored["row"])), a @ row)
    inner = ColumnRange(of=stored["a"], first=0, end=3)
    assert np.allclose(value(Chained(outer=inner, inner=stored["b"])), a[:, :3] @ b)
    assert np.array_equal(value(Values(rows=((1.0, 2.0),))), [[1.0, 2.0]])


def test_a_patchs_weight_is_in_the_order_of_its_pixels() -> None:
    rows = value(PatchRows(of=Stored(name="conv"), padded=16))
    pixels = RANDOM.normal(size=(2, 2, 3)).astype(np.float32)
    wanted = np.einsum("nchw,hwc->n", WIDE["conv"], pixels)
    assert np.allclose(rows[:, :12] @ pixels.ravel(), wanted, atol=1e-5)
    assert np.all(rows[:, 12:] == 0.0)


def test_bfloat16_is_moved_without_a_change_and_rounded_once_otherwise() -> None:
    half, row = Stored(name="half"), Stored(name="row")
    assert np.array_equal(value(Rows(parts=(half, half)), "bf16")[:6], TENSORS["half"])
    scaled = Scaled(of=half, columns=row)
    exact = torch.from_numpy(as_float32(TENSORS["half"]) * WIDE["row"])
    bits = exact.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(value(scaled, "bf16"), bits)
    sums = value(RowSums(of=scaled, dtype="bf16"))
    assert np.allclose(sums, as_float32(bits).sum(axis=1), rtol=1e-6)
