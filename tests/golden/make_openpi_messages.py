"""Writes openpi_messages.bin: observations as openpi-client 0.1.2 packs them.

    pip install --no-deps openpi-client==0.1.2; pip install msgpack 'numpy<2'
    python tests/golden/make_openpi_messages.py

Each message is 4 bytes of its length, least significant first, and its bytes. What they contain is
`messages()`, which the test packs with flux_runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).with_name("openpi_messages.bin")
SCALARS = {
    "bool": [True, False],
    "uint8": [0, 255],
    "int16": [-(2**15)],
    "int32": [-1, 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "uint64": [2**64 - 1],
    "float16": [0.5],
    "float32": [0.1, -1e30],
    "float64": [0.1],  # a subclass of Python's float, so not encoded as numpy's
}


def messages() -> dict[str, dict[str, Any]]:
    """Returns observations as openpi's examples send them, and every kind of value."""
    picture = (np.arange(4 * 6 * 3) * 7 % 251).astype(np.uint8).reshape(4, 6, 3)
    return {
        "aloha": {
            "state": np.linspace(-1.0, 1.0, 14),
            "images": {
                name: np.ascontiguousarray(picture.transpose(2, 0, 1))
                for name in ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
            },
            "prompt": "transfer the cube",
        },
        "libero": {
            "observation/state": np.linspace(-1.0, 1.0, 8),
            "observation/image": picture,
            "observation/wrist_image": picture[::-1],
            "prompt": "put the bowl on the plate ☕",
        },
        "droid": {
            "observation/exterior_image_1_left": picture,
            "observation/wrist_image_left": picture[:, ::-1],
            "observation/joint_position": np.linspace(-1.0, 1.0, 7),
            "observation/gripper_position": np.array([0.25]),
            "prompt": "",
        },
        "answer": {
            "actions": np.linspace(-1, 1, 28).astype(np.float32).reshape(2, 14),
            "server_timing": {"infer_ms": 12.5},
        },
        "values": {
            "plain": [None, True, False, 0, -1, 2**40, 0.5, "text", b"bytes", [], {}, [[1], [2]]],
            "long text": "x" * 300,
            "long bytes": b"x" * 300,
            "long list": list(range(20)),
            "empty": np.zeros((0, 3), np.float32),
            "no dimensions": np.array(2.5, np.float32),
            "flags": np.array([True, False]),
            "columns first": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        },
        "scalars": {
            name: [np.dtype(name).type(value) for value in values]
            for name, values in SCALARS.items()
        },
    }


def read(path: Path = GOLDEN) -> Iterator[bytes]:
    """Yields the messages of the file."""
    content = path.read_bytes()
    while content:
        size = 4 + int.from_bytes(content[:4], "little")
        yield content[4:size]
        content = content[size:]


def main() -> None:
    """Packs them with openpi-client."""
    from openpi_client import msgpack_numpy

    packed = [msgpack_numpy.Packer().pack(message) for message in messages().values()]
    GOLDEN.write_bytes(b"".join(len(m).to_bytes(4, "little") + m for m in packed))
    print(f"{GOLDEN.name}: {len(packed)} messages, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
