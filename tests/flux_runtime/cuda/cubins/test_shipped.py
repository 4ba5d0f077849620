"""The kernels that are shipped, compiled at full size: tensor instructions, memory, registers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flux_core.models.pi import PI0FlowMatching
from flux_core.models.pi.sizes import sized_model
from flux_runtime.cuda.architectures import ARCHITECTURES
from flux_runtime.cuda.cubins import Cubin, find_cubins
from flux_runtime.cuda.cubins.file import read_cubin
from flux_runtime.cuda.cubins.kernel_sources import kernel_sources
from flux_runtime.cuda.cubins.shipped import full_size, shipped
from flux_runtime.cuda.cubins.specialisation import Specialisation, specialise
from flux_runtime.cuda.pi import make_plan
from flux_runtime.cuda.support import MODELS, Model

triton = pytest.importorskip("triton", reason="triton is not installed")

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
IN_EVERY_RUN = ("sm_89", "sm_90a", "sm_120a")
SLOW = ("sm_80", "sm_87", "sm_100a")
MOST_SPILLED = 64
TENSOR_INSTRUCTION = re.compile(r"\b(HMMA|HGMMA|UTCHMMA)\b")
OF_WARP_GROUPS = {"sm_90a": "HGMMA"}
"""Where four warps multiply together, which the older instruction does at half the speed."""


@pytest.fixture(
    params=[*IN_EVERY_RUN, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)]
)
def arch(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def cubins(arch: str, shipped_kernels: Callable[[str], Path]) -> list[tuple[Specialisation, Cubin]]:
    """Everything that is shipped for an architecture, compiled once per test run."""
    found = find_cubins(arch, [shipped_kernels(arch)])
    return [(one, found.cubin(one)) for one in shipped(ARCHITECTURES[arch])]


def instructions(cubin: Cubin) -> str:
    done = subprocess.run([TOOL, "-sass", cubin.path], capture_output=True, text=True, check=True)
    return done.stdout


def multiplies_bfloat16(one: Specialisation) -> bool:
    """Whether a kernel's products are in bfloat16: all that it multiplies is."""
    source = kernel_sources()[one.kernel]
    types = dict(zip(source.parameters, one.parameters, strict=True))
    weights = [name for name in ("weight", "gate_weight", "keys") if name in types]
    return source.has_product and all(types[name].type == "*bf16" for name in weights)


def test_what_is_compiled_fits_its_cards(
    arch: str, cubins: list[tuple[Specialisation, Cubin]]
) -> None:
    """Opening the store has compared architecture, hash, symbol, threads and parameters."""
    target, spilling = ARCHITECTURES[arch], []
    most = 0 if arch == "sm_90a" else MOST_SPILLED
    for one, cubin in cubins:
        assert cubin.shared_bytes <= target.shared_bytes
        assert cubin.num_threads * cubin.registers <= 65536
        assert cubin.spill_bytes <= most, f"{one.key} spills {cubin.spill_bytes} bytes"
        if cubin.spill_bytes:
            spilling.append(f"{one.key}: {cubin.spill_bytes} bytes")
    print(f"{arch}: spills", *(spilling or ["none"]), sep="\n  ")


def test_every_bfloat16_product_uses_the_tensor_cores(
    arch: str, cubins: list[tuple[Specialisation, Cubin]]
) -> None:
    products = [(one, cubin) for one, cubin in cubins if multiplies_bfloat16(one)]
    assert len(products) >= 15
    with ThreadPoolExecutor(2) as pool:
        listings = pool.map(instructions, (cubin for _, cubin in products))
        for (one, _), listing in zip(products, listings, strict=True):
            used = set(TENSOR_INSTRUCTION.findall(listing))
            assert used, f"{one.key} has no tensor instruction"
            if arch in OF_WARP_GROUPS:
                assert used == {OF_WARP_GROUPS[arch]}, one.key


def test_our_reading_of_a_cubin_is_that_of_nvidias_tool(
    cubins: list[tuple[Specialisation, Cubin]],
) -> None:
    one, cubin = max(cubins, key=lambda found: len(found[1].parameters))
    command = [TOOL, "-elf", cubin.path]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"Ordinal : (0x\w+)\s+Offset\s+: (0x\w+)\s+Size\s+: (0x\w+)", listing)
    numbers = sorted(tuple(int(number, 16) for number in row) for row in rows)
    own = read_cubin(cubin.read())
    assert tuple((offset, size) for _, offset, size in numbers) == own.parameters
    assert own.parameters == one.parameter_table
    (registers,) = re.findall(rf"{cubin.symbol}\(\w+\)\s+register count: (\d+)", listing)
    assert int(registers) == own.registers


@pytest.mark.parametrize("arch", IN_EVERY_RUN)
@pytest.mark.parametrize("model", MODELS)
def test_full_plans_need_nothing_that_is_not_shipped(model: Model, arch: str) -> None:
    """Plans are shortened to find what is shipped; here are those that a robot runs."""
    known = {one.key for one in shipped(ARCHITECTURES[arch])}
    for num_cameras, num_tokens in ((3, 48), (1, 200)):
        plan = make_plan(full_size(model), num_cameras, num_tokens, arch=arch)
        keys = {specialise(plan, launch).key for launch in plan.launches}
        assert keys <= known


@pytest.mark.parametrize("horizon", [10, 15, 100])
def test_other_action_horizons_need_no_other_kernels(horizon: int) -> None:
    from dataclasses import replace

    known = {one.key for one in shipped(ARCHITECTURES["sm_90a"])}
    description = replace(full_size("pi0"), horizon=horizon, layers=2, num_inference_steps=2)
    plan = make_plan(description, 2, 32, arch="sm_90a")
    assert {specialise(plan, launch).key for launch in plan.launches} <= known


def test_few_kernels_are_shipped() -> None:
    """Each costs a second of compiling per architecture, and 20 kB."""
    for target in ARCHITECTURES.values():
        found = shipped(target)
        assert len(found) <= 28, target.name
        assert {one.kernel for one in found} == set(kernel_sources())


@pytest.mark.parametrize("model", MODELS)
def test_the_full_size_is_that_of_the_network(model: Model) -> None:
    """The description of a network that was never exported equals that of its real tensors."""
    import torch

    from flux_core.config import bind

    tree = sized_model(model, "full", action_horizon=50)
    with torch.device("meta"):
        network = bind(PI0FlowMatching.Config, tree, "model").build()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    vision = "vision_backbone.vision.vision_model."
    ours = full_size(model)
    tower, prefix, expert = ours.tower, ours.prefix, ours.expert
    assert shapes[f"{vision}embeddings.patch_embedding.weight"] == (
        *(tower.width, 3, tower.patch, tower.patch),
    )
    assert shapes[f"{vision}embeddings.position_embedding.weight"] == (tower.tokens, tower.width)
    assert shapes[f"{vision}encoder.layers.{tower.layers - 1}.mlp.fc1.weight"] == (
        *(tower.mlp, tower.width),
    )
    for part, stream in (("llm_backbone", prefix), ("llm_expert", expert)):
        last = f"{part}.layers.{ours.layers - 1}"
        assert shapes[f"{last}.mlp.gate_proj.weight"] == (stream.mlp, stream.width)
        assert shapes[f"{last}.self_attn.k_proj.weight"] == (
            *(ours.key_heads * ours.head_dim, stream.width),
        )
    assert shapes["llm_backbone.embed_tokens.weight"][0] == ours.vocabulary
    assert shapes["action_out_proj.projector.weight"][0] == ours.action_dim
    assert ("state_proj.projector.weight" in shapes) == bool(ours.state_dim)
