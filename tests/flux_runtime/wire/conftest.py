"""The facts of the shipped policy, and messages about it."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flux_core.bundle import Bundle
from flux_core.robots import ROBOT_SPECS
from flux_runtime.run.command import shipped_policy
from flux_runtime.wire import PolicyFacts
from flux_runtime.wire.messages import Answer, Continued, Hello, Infer, Limits

SESSION = "0123456789abcdef" * 2
CONTINUATION = {
    "method": "prefix",
    "prefix_len": None,
    "decay_end": None,
    "schedule": "exp",
    "max_guidance_weight": 5.0,
    "use_vjp": False,
    "delays": [0, 4, 8],
}


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return Bundle.open(shipped_policy("aloha-sim"), verify=False)


@pytest.fixture(scope="session")
def facts(bundle: Bundle) -> PolicyFacts:
    return PolicyFacts.of(bundle, "native", True)


@pytest.fixture(scope="session")
def libero(facts: PolicyFacts) -> PolicyFacts:
    """Facts of a policy for LIBERO's robot, which is commanded by differences."""
    spec = ROBOT_SPECS["libero"]
    manifest = replace(facts.manifest, cameras=spec.cameras, state_dim=8, prompt="")
    return replace(facts, manifest=manifest, spec=spec)


def a_picture(height: int = 6, width: int = 8) -> np.ndarray:
    size = height * width * 3
    return (np.arange(size) * 7 % 251).astype(np.uint8).reshape(height, width, 3)


def an_infer(**changes: Any) -> Infer:
    fields: dict[str, Any] = {
        "session": SESSION,
        "sequence": 3,
        "sent_ns": 1_000,
        "captured_ns": {"state": 900, "cam_high": 800},
        "budget_ms": 250.0,
        "state": np.linspace(0, 1, 14).astype(np.float32),
        "images": {"cam_high": a_picture()},
        "prompt": "transfer the cube",
        "seed": 7,
        "index": 2,
        "continued": Continued(
            previous=np.linspace(0, 1, 28).astype(np.float32).reshape(2, 14),
            prefix_len=1,
            settings=CONTINUATION,
        ),
    }
    return Infer(**(fields | changes))


def an_answer(facts: PolicyFacts, **changes: Any) -> Answer:
    shape = (facts.manifest.action_horizon, facts.action_dim)
    fields: dict[str, Any] = {
        "sequence": 3,
        "actions": np.full(shape, 0.25, np.float32),
        "captured_ns": {"state": 900, "cam_high": 800},
        "received_ns": 5_000,
        "sent_ns": 6_000,
        "times_ms": {"queue": 0.0, "infer": 12.5, "total": 13.0},
    }
    return Answer(**(fields | changes))


def a_hello(facts: PolicyFacts) -> Hello:
    limits = Limits(max_bytes=32 * 2**20, requests_per_s=100.0)
    return Hello(session=SESSION, facts=facts, limits=limits, server_ns=1)


def nested(depth: int, kind: str = "lists") -> bytes:
    """A message with so many lists or maps inside each other, itself included."""
    inner = b"\x91" if kind == "lists" else b"\x81\xa1k"
    return b"\x81\xa1k" + inner * (depth - 1) + b"\xc0"


def head(first: int, size: int) -> bytes:
    """The head of a value of msgpack that states its size in four bytes."""
    return struct.pack(">BI", first, size)
