"""The player against a driver that records: launches, copies, numbers, errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_core.errors import MissingDependencyError
from flux_runtime.cuda.player import Program, merged_buffers, play
from flux_runtime.cuda.recipes import as_bfloat16

from .expected_launches import assert_launches_are_those_of_the_plans, memory_bytes_of, offsets_of
from .fake_card import FakeCard, array_at
from .toy_program import (
    CAMERAS,
    DIM,
    HEIGHT,
    HORIZON,
    INPUTS,
    STATE,
    TOKENS,
    VARIANTS,
    WEIGHTS,
    WIDTH,
    FakeCubins,
    digest,
    install_kernels,
    toy_plan,
    toy_program,
)


@pytest.fixture
def cubins(tmp_path: Path) -> FakeCubins:
    return FakeCubins(tmp_path, shared_bytes={"digest": 60_000})


def opened(card: FakeCard, program: Program, core: Any) -> Any:
    """A policy whose kernels run: they are named when the program asks for them."""

    class Core:
        @staticmethod
        def CudaPlayer(**arguments: Any) -> Any:
            install_kernels(card, program.kernels)  # type: ignore[arg-type]
            return core.CudaPlayer(**arguments)

    return play(program, Core, card.library)  # type: ignore[arg-type]


def observation(seed: int, cameras: tuple[int, ...], num_tokens: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    masks = np.array([[camera in cameras for camera in range(CAMERAS)]])
    return {
        "images": random.integers(0, 255, (1, CAMERAS, HEIGHT, WIDTH, 3), np.uint8),
        "image_masks": masks,
        "lang_tokens": random.integers(1, 99, (1, TOKENS)),
        "lang_masks": np.arange(TOKENS)[None] < num_tokens,
        "state": random.standard_normal((1, STATE), np.float32),
    }


def expected_actions(
    inputs: Mapping[str, NDArray[Any]], noise: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The toy in numpy, from the uncompacted inputs."""
    cameras = np.flatnonzero(inputs["image_masks"][0])
    tokens = inputs["lang_tokens"][0][inputs["lang_masks"][0]]
    images = inputs["images"][0][cameras]
    value = digest(len(cameras), images, cameras, tokens, inputs["state"][0])
    return noise * WEIGHTS["weight"] + value + WEIGHTS["offset"]


# --- launches -----------------------------------------------------------------------------------


def test_every_launch_is_what_the_plan_says(card: FakeCard, cubins: FakeCubins, core: Any) -> None:
    program = toy_program(cubins)
    policy = opened(card, program, core)
    assert len(card.launches()) == 2 * 2 * len(VARIANTS)
    assert_launches_are_those_of_the_plans(card, program)
    # Each kernel is loaded once, and only large shared memory is asked for.
    assert [words[1:] for words in card.calls("cuModuleLoadData")] == [
        ["sm_90a", "digest_0"],
        ["sm_90a", "finish_1"],
    ]
    assert card.calls("cuFuncSetAttribute") == [["cuFuncSetAttribute", "digest_0", "8", "60000"]]
    del policy
    assert card.live() == 0


def test_a_graph_is_one_copy_in_the_launches_and_one_copy_out(
    card: FakeCard, cubins: FakeCubins, core: Any
) -> None:
    program = toy_program(cubins)
    policy = opened(card, program, core)
    names = [words[0] for words in card.calls()]
    begins = [i for i, name in enumerate(names) if name == "cuStreamBeginCapture_v2"]
    ends = [i for i, name in enumerate(names) if name == "cuStreamEndCapture"]
    offsets, (base, _) = offsets_of(program), card.memory
    (_, _, host_in), (_, _, host_out) = card.calls("cuMemHostAlloc")
    for (cameras, _), begin, end in zip(VARIANTS, begins, ends, strict=True):
        inside = card.calls()[begin + 1 : end]
        assert [words[0] for words in inside] == [
            "cuMemcpyHtoDAsync_v2",
            "cuLaunchKernel",
            "cuLaunchKernel",
            "cuMemcpyDtoHAsync_v2",
        ]
        size = offsets["images"] + cameras * HEIGHT * WIDTH * 3
        assert inside[0][1:] == [str(base), host_in, str(size), "captured"]
        out = base + offsets["actions"]
        assert inside[-1][1:] == [host_out, str(out), str(HORIZON * DIM * 4), "captured"]
    assert policy.can_continue and not policy.can_guide


def test_an_inference_is_one_launch_of_one_graph(
    card: FakeCard, cubins: FakeCubins, core: Any
) -> None:
    policy = opened(card, toy_program(cubins), core)
    before = len(card.calls())
    policy.infer(observation(0, (0, 2), 5), np.zeros((HORIZON, DIM), np.float32))
    names = [words[0] for words in card.calls()[before:]]
    assert names == ["cuGraphLaunch", "cuStreamSynchronize"]


def test_constants_are_computed_and_uploaded_one_after_the_other(
    card: FakeCard, cubins: FakeCubins, core: Any
) -> None:
    uploads: list[int] = []

    def read(name: str) -> NDArray[Any]:
        uploads.append(len(card.calls("cuMemcpyHtoDAsync_v2")))
        return WEIGHTS[name]

    program = replace(toy_program(cubins), read=read)
    policy = opened(card, program, core)
    assert uploads == [0, 1]
    (base, size), offsets = card.memory, offsets_of(program)
    assert size == memory_bytes_of(program) == 12 * 256  # no buffer is larger
    weight = array_at(base + offsets["weight"], np.uint16, 1, DIM)
    np.testing.assert_array_equal(weight, as_bfloat16(WEIGHTS["weight"]))
    offset = array_at(base + offsets["offset"], np.float32, 1)
    np.testing.assert_array_equal(offset, WEIGHTS["offset"])
    assert policy.action_shape == (HORIZON, DIM)


def test_buffers_of_all_variants_are_as_large_as_the_largest() -> None:
    plans = [toy_plan(1, 8), toy_plan(3, 4)]
    buffers = merged_buffers(plans)
    assert buffers["images"].shape[0] == 3 and buffers["tokens"].shape == (8,)
    assert [name for name, buffer in buffers.items() if buffer.role == "input"][-1] != "state"
    assert list(buffers)[-1] == "images"
    changed = replace(plans[1].buffers["x"], dtype="bf16")
    wrong = replace(plans[1], buffers={**plans[1].buffers, "x": changed})
    with pytest.raises(AssertionError, match="3 cameras, 4 tokens: x"):
        merged_buffers([plans[0], wrong])


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cameras", [(0,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("num_tokens", [0, 4, 5, 8])
def test_an_inference_computes_only_what_is_there(
    card: FakeCard, cubins: FakeCubins, core: Any, cameras: tuple[int, ...], num_tokens: int
) -> None:
    policy = opened(card, toy_program(cubins), core)
    assert policy.inputs == INPUTS
    noise = np.random.default_rng(5).standard_normal((HORIZON, DIM), np.float32)
    for seed in range(3):
        inputs = observation(seed, cameras, num_tokens)
        found = policy.infer(inputs, noise)
        np.testing.assert_allclose(found, expected_actions(inputs, noise), rtol=1e-6)
    times = policy.histograms()
    assert times["inference"]["count"] == times["copy_in"]["count"] == 3


def test_known_rows_begin_the_chunk_and_guidance_is_refused(
    card: FakeCard, cubins: FakeCubins, core: Any
) -> None:
    policy = opened(card, toy_program(cubins), core)
    inputs = observation(1, (0, 1), 3)
    noise = np.random.default_rng(5).standard_normal((HORIZON, DIM), np.float32)
    previous = np.full((3, DIM), 7.0, np.float32)
    prefix = core.ContinuationSettings(method="prefix", delays=(0, 2))
    found = policy.infer(inputs, noise, previous, 2, prefix)
    expected = expected_actions(inputs, noise)
    np.testing.assert_array_equal(found[:2], previous[:2])
    np.testing.assert_allclose(found[2:], expected[2:], rtol=1e-6)
    # The next chunk continues nothing, and a prefix of no rows is the same, bit for bit.
    alone = policy.infer(inputs, noise)
    np.testing.assert_allclose(alone, expected, rtol=1e-6)
    np.testing.assert_array_equal(policy.infer(inputs, noise, previous, 0, prefix), alone)
    guidance = core.ContinuationSettings(method="guidance")
    with pytest.raises(ValueError, match="expected method prefix, .* got method guidance"):
        policy.infer(inputs, noise, previous, 2, guidance)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_masks", np.zeros((1, CAMERAS), bool), "image_masks: expected at least one camera"),
        (
            "lang_masks",
            np.array([[False, True, True, *[False] * 5]]),
            "lang_masks: expected the padding behind the prompt, got padding before token 1",
        ),
        ("lang_tokens", np.full((1, TOKENS), 100), "lang_tokens: expected 0 to 99, got 100"),
    ],
)
def test_what_no_graph_takes_is_refused_by_name(
    card: FakeCard, cubins: FakeCubins, core: Any, name: str, value: NDArray[Any], message: str
) -> None:
    policy = opened(card, toy_program(cubins), core)
    inputs = observation(1, (0, 1), 3) | {name: value}
    with pytest.raises(ValueError, match=message):
        policy.infer(inputs, np.zeros((HORIZON, DIM), np.float32))


# --- errors -------------------------------------------------------------------------------------


def refusal(card: FakeCard, program: Program, core: Any) -> str:
    """The message of a program that cannot be played; nothing of it may be left."""
    with pytest.raises(RuntimeError) as error:
        opened(card, program, core)
    assert card.live() == 0
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_corrupted_cubin_is_found_before_the_driver_sees_it(
    card: FakeCard, tmp_path: Path, core: Any
) -> None:
    cubins = FakeCubins(tmp_path, content={"finish": b"FAKE sm_90a finish_2\0"})
    with pytest.raises(MissingDependencyError, match=r"finish_1\.cubin: its SHA-256 is not the"):
        opened(card, toy_program(cubins), core)
    assert card.calls() == []


def test_a_cubin_that_the_driver_refuses_is_named(
    card: FakeCard, cubins: FakeCubins, core: Any
) -> None:
    card.refuse("cuModuleLoadData", 200, successes=1)
    assert refusal(card, toy_program(cubins), core) == (
        "kernel finish: expected a cubin for sm_90a, got one that is damaged "
        "(CUDA_ERROR_INVALID_IMAGE)"
    )


def test_cubins_for_another_card_are_refused(card: FakeCard, cubins: FakeCubins, core: Any) -> None:
    card.reset((8, 9))
    assert refusal(card, toy_program(cubins), core) == (
        "architecture: expected cubins for compute capability 8.9 of Fake card, got cubins for "
        "sm_90a"
    )


def test_a_failing_launch_is_named(card: FakeCard, cubins: FakeCubins, core: Any) -> None:
    card.refuse("cuLaunchKernel", 701, successes=9)
    assert refusal(card, toy_program(cubins), core) == (
        "2 cameras, 4 tokens, launch 1 (steps, finish): cuLaunchKernel: expected success, got CUDA "
        "error 701 (CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)"
    )


def test_too_little_memory_says_what_is_needed_and_free(
    card: FakeCard, cubins: FakeCubins, core: Any
) -> None:
    program = toy_program(cubins, [(1, 4)])
    plan = program.plans[1, 4]
    large = replace(plan.buffers["x"], shape=(6 << 20,))
    program = replace(program, plans={(1, 4): replace(plan, buffers={**plan.buffers, "x": large})})
    card.reset(free=10 << 20)
    assert refusal(card, program, core) == (
        "memory of Fake card: expected 24 MiB free, got 10 of 4096 MiB"
    )


def test_too_much_shared_memory_is_refused(card: FakeCard, cubins: FakeCubins, core: Any) -> None:
    card.reset(shared_limit=59_999)
    assert refusal(card, toy_program(cubins), core) == (
        "kernel digest: expected at most 59999 bytes of shared memory on Fake card, got 60000"
    )


def test_a_fault_of_the_card_ends_an_inference_and_leaves_the_policy(
    card: FakeCard, cubins: FakeCubins, core: Any
) -> None:
    policy = opened(card, toy_program(cubins), core)
    inputs, noise = observation(1, (0, 1), 3), np.zeros((HORIZON, DIM), np.float32)
    card.refuse("cuStreamSynchronize", 700)
    with pytest.raises(RuntimeError, match=r"cuStreamSynchronize: .* \(CUDA_ERROR_ILLEGAL_ADDR"):
        policy.infer(inputs, noise)
    assert np.isfinite(policy.infer(inputs, noise)).all()
