"""Our protocol: what a robot and a server send each other after `SUBPROTOCOL` was agreed on.

    server -> robot     Hello, once; then Answer or Refusal per request, and Pong
    robot -> server     Infer, Ping

Each message is one binary frame of `packing.pack(message.as_data())`, a map whose `type` says what
it is. Times in ns are of the clock of one side, whose origin the other one does not know; the robot
estimates the difference of both from Ping and Pong. `from_data` trusts nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from .bounds import WireError, one_line
from .facts import PolicyFacts
from .fields import (
    continuation_settings,
    expect,
    integer_of,
    kind_of,
    number_of,
    object_of,
    text_of,
)
from .numbers import finite_matrix, finite_vector, noise_of
from .pictures import MAX_PIXELS, as_picture

SUBPROTOCOL = "flux.v1"
PROTOCOL = 1
MOST_NS = 2**63 - 1
MOST_BUDGET_MS = 600_000.0
STAGES = ("queue", "decode", "encode", "infer", "total")
STATE = "state"
"""The key of the state's time among those of the cameras."""

RefusalKind = Literal[
    "late",
    "replaced",
    "replayed",
    "busy",
    "rate",
    "bad_request",
    "oversized",
    "failed",
    "draining",
]
REFUSAL_KINDS: tuple[RefusalKind, ...] = get_args(RefusalKind)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes from one connection.

    Attributes:
        max_bytes: of one message.
        requests_per_s: at most.
    """

    max_bytes: int
    requests_per_s: float

    def as_data(self) -> dict[str, Any]:
        """Returns plain data."""
        return {"max_bytes": self.max_bytes, "requests_per_s": self.requests_per_s}

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Reads plain data."""
        found = expect("hello.limits", data, ("max_bytes", "requests_per_s"))
        return cls(
            max_bytes=integer_of("hello.limits.max_bytes", found["max_bytes"], 1, 2**40),
            requests_per_s=number_of(
                "hello.limits.requests_per_s", found["requests_per_s"], 0.0, 1e9
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The first message of a server.

    Attributes:
        session: a random text of this connection. Every request repeats it, so that a recorded one
            is refused on another connection.
        facts: of the policy.
        limits: what the server takes.
        server_ns: the server's clock when it was sent.
    """

    session: str
    facts: PolicyFacts
    limits: Limits
    server_ns: int

    def as_data(self) -> dict[str, Any]:
        """Returns plain data for `packing.pack`."""
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "session": self.session,
            "facts": self.facts.as_data(),
            "limits": self.limits.as_data(),
            "server_ns": self.server_ns,
        }

    @classmethod
    def from_data(cls, data: object, accept_versions: Collection[str] = ()) -> Self:
        """Reads what `unpack(frame, METADATA_BOUNDS)` returned.

        Args:
            data: that.
            accept_versions: see `PolicyFacts.from_data`.

        Raises:
            WireError: it is not such a message.
        """
        # The version first: another one may have other fields.
        protocol = object_of("hello", data).get("protocol")
        if kind_of(data) != "hello" or type(protocol) is not int or protocol != PROTOCOL:
            raise WireError(
                f"server: expected protocol {PROTOCOL} of flux-runtime, got another one. Update "
                "the server or this machine",
                "unsupported",
            )
        found = expect(
            "hello", data, ("type", "protocol", "session", "facts", "limits", "server_ns")
        )
        return cls(
            session=_session("hello.session", found["session"]),
            facts=PolicyFacts.from_data(found["facts"], accept_versions),
            limits=Limits.from_data(found["limits"]),
            server_ns=integer_of("hello.server_ns", found["server_ns"], 0, MOST_NS),
        )


@dataclass(frozen=True, kw_only=True)
class Continued:
    """The running chunk, which the requested one continues.

    Attributes:
        previous: (K, action_dim) float32 in robot units: what is left of it, K <= action_horizon.
        prefix_len: how many of these rows will have been executed, 0 to K.
        settings: the arguments of `_core.ContinuationSettings`.
    """

    previous: NDArray[np.float32]
    prefix_len: int
    settings: Mapping[str, Any]

    def as_data(self) -> dict[str, Any]:
        """Returns data for `packing.pack`."""
        return {
            "previous": self.previous,
            "prefix_len": self.prefix_len,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_data(cls, data: object, facts: PolicyFacts) -> Self:
        """Reads unpacked data."""
        where = "infer.continued"
        found = expect(where, data, ("previous", "prefix_len", "settings"))
        horizon = facts.manifest.action_horizon
        previous = finite_matrix(
            f"{where}.previous", found["previous"], (None, facts.action_dim), most_rows=horizon
        )
        return cls(
            previous=previous,
            prefix_len=integer_of(f"{where}.prefix_len", found["prefix_len"], 0, len(previous)),
            settings=continuation_settings(f"{where}.settings", found["settings"], horizon),
        )


@dataclass(frozen=True, kw_only=True)
class Infer:
    """A request for a chunk.

    Attributes:
        session: of the server's Hello.
        sequence: larger than that of every earlier request of the connection.
        sent_ns: the robot's clock when it was sent.
        captured_ns: the robot's clock when the state ('state') and each camera's picture were
            taken.
        budget_ms: what is left of the robot's deadline at sending.
        state: (state_dim,) float32 in robot units.
        images: camera -> (H, W, 3) uint8, or a JPEG or PNG file.
        prompt: the task in words.
        noise: (action_horizon, action_dim of the network) float32; None if `seed` is given.
        seed, index: of `control.policy_source.chunk_noise`; None if `noise` is given.
        continued: the running chunk, if the new one continues it.
    """

    session: str
    sequence: int
    sent_ns: int
    captured_ns: Mapping[str, int]
    budget_ms: float
    state: NDArray[np.float32]
    images: Mapping[str, NDArray[np.uint8] | bytes]
    prompt: str
    noise: NDArray[np.float32] | None = None
    seed: int | None = None
    index: int | None = None
    continued: Continued | None = None

    def pictures(self, max_pixels: int = MAX_PIXELS) -> dict[str, NDArray[np.uint8]]:
        """Returns the pictures as arrays, (H, W, 3) uint8 each.

        Args:
            max_pixels: of all of them together.

        Raises:
            WireError: one cannot be decoded.
        """
        found: dict[str, NDArray[np.uint8]] = {}
        for camera, image in self.images.items():
            picture = as_picture(image, f"infer.images.{camera}", max_pixels)
            max_pixels -= picture.shape[0] * picture.shape[1]
            found[camera] = picture
        return found

    def as_data(self) -> dict[str, Any]:
        """Returns data for `packing.pack`."""
        return {
            "type": "infer",
            "session": self.session,
            "sequence": self.sequence,
            "sent_ns": self.sent_ns,
            "captured_ns": dict(self.captured_ns),
            "budget_ms": self.budget_ms,
            "state": self.state,
            "images": dict(self.images),
            "prompt": self.prompt,
            "noise": self.noise,
            "seed": self.seed,
            "index": self.index,
            "continued": self.continued.as_data() if self.continued else None,
        }

    @classmethod
    def from_data(cls, data: object, facts: PolicyFacts) -> Self:
        """Reads unpacked data; pictures are decoded later, by `pictures`.

        Raises:
            WireError: it does not fit the policy.
        """
        found = expect("infer", data, _INFER_KEYS, _INFER_OPTIONAL)
        manifest = facts.manifest
        state = finite_vector("infer.state", found["state"], most=manifest.state_dim)
        if len(state) != manifest.state_dim:
            raise WireError(f"infer.state: expected {manifest.state_dim} numbers, got {len(state)}")
        noise = noise_of(found["noise"], manifest)
        seed, index = found["seed"], found["index"]
        if noise is None:
            seed = integer_of("infer.seed", seed, 0, MOST_NS)
            index = integer_of("infer.index", index, 0, MOST_NS)
        elif seed is not None or index is not None:
            raise WireError("infer: expected either noise or seed and index, got both")
        times = _times("infer.captured_ns", found["captured_ns"], manifest.cameras)
        continued = found["continued"]
        return cls(
            session=_session("infer.session", found["session"]),
            sequence=integer_of("infer.sequence", found["sequence"], 0, MOST_NS),
            sent_ns=integer_of("infer.sent_ns", found["sent_ns"], 0, MOST_NS),
            captured_ns=times,
            budget_ms=number_of("infer.budget_ms", found["budget_ms"], 0.0, MOST_BUDGET_MS),
            state=state,
            images=_images(found["images"], manifest.cameras),
            prompt=text_of("infer.prompt", found["prompt"], 4096),
            noise=noise,
            seed=seed,
            index=index,
            continued=None if continued is None else Continued.from_data(continued, facts),
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A chunk.

    Attributes:
        sequence: of its request.
        actions: (action_horizon, action_dim) float32 in robot units.
        captured_ns: of its request.
        received_ns, sent_ns: the server's clock when the request had arrived and when the answer
            was sent.
        times_ms: stage of `STAGES` -> its time on the server.
    """

    sequence: int
    actions: NDArray[np.float32]
    captured_ns: Mapping[str, int]
    received_ns: int
    sent_ns: int
    times_ms: Mapping[str, float] = field(default_factory=dict[str, float])

    def as_data(self) -> dict[str, Any]:
        """Returns data for `packing.pack`."""
        return {
            "type": "answer",
            "sequence": self.sequence,
            "actions": self.actions,
            "captured_ns": dict(self.captured_ns),
            "received_ns": self.received_ns,
            "sent_ns": self.sent_ns,
            "times_ms": dict(self.times_ms),
        }

    @classmethod
    def from_data(cls, data: object, facts: PolicyFacts) -> Self:
        """Reads unpacked data.

        Raises:
            WireError: it does not fit the policy, or a number is not finite.
        """
        found = expect("answer", data, _ANSWER_KEYS)
        shape = (facts.manifest.action_horizon, facts.action_dim)
        times = object_of("answer.times_ms", found["times_ms"])
        unknown = [name for name in times if name not in STAGES]
        if unknown:
            raise WireError(f"answer.times_ms: expected {', '.join(STAGES)}, got another stage")
        return cls(
            sequence=integer_of("answer.sequence", found["sequence"], 0, MOST_NS),
            actions=finite_matrix("answer.actions", found["actions"], shape),
            captured_ns=_times("answer.captured_ns", found["captured_ns"], facts.manifest.cameras),
            received_ns=integer_of("answer.received_ns", found["received_ns"], 0, MOST_NS),
            sent_ns=integer_of("answer.sent_ns", found["sent_ns"], 0, MOST_NS),
            times_ms={
                name: number_of(f"answer.times_ms.{name}", value, 0.0, 1e9)
                for name, value in times.items()
            },
        )


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A request that gets no chunk.

    Attributes:
        sequence: of the request; None if that could not be read.
        kind: why, in a word.
        text: why, in a line.
    """

    sequence: int | None
    kind: RefusalKind
    text: str

    def as_data(self) -> dict[str, Any]:
        """Returns data for `packing.pack`."""
        text = one_line(self.text)[:1000]
        return {"type": "refusal", "sequence": self.sequence, "kind": self.kind, "text": text}

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Reads unpacked data; a kind of a newer server becomes 'failed'.

        Raises:
            WireError: it is not such a message.
        """
        found = expect("refusal", data, ("type", "sequence", "kind", "text"))
        sequence, kind = found["sequence"], text_of("refusal.kind", found["kind"], 100)
        return cls(
            sequence=None
            if sequence is None
            else integer_of("refusal.sequence", sequence, 0, MOST_NS),
            kind=kind if kind in REFUSAL_KINDS else "failed",
            text=one_line(text_of("refusal.text", found["text"], 4000))[:1000],
        )


@dataclass(frozen=True, kw_only=True)
class Ping:
    """Asks for the server's clock. `client_ns`: the robot's."""

    client_ns: int

    def as_data(self) -> dict[str, Any]:
        """Returns data for `packing.pack`."""
        return {"type": "ping", "client_ns": self.client_ns}

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Reads unpacked data."""
        found = expect("ping", data, ("type", "client_ns"))
        return cls(client_ns=integer_of("ping.client_ns", found["client_ns"], 0, MOST_NS))


@dataclass(frozen=True, kw_only=True)
class Pong:
    """The answer to a Ping: its `client_ns`, and the server's clock."""

    client_ns: int
    server_ns: int

    def as_data(self) -> dict[str, Any]:
        """Returns data for `packing.pack`."""
        return {"type": "pong", "client_ns": self.client_ns, "server_ns": self.server_ns}

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Reads unpacked data."""
        found = expect("pong", data, ("type", "client_ns", "server_ns"))
        return cls(
            client_ns=integer_of("pong.client_ns", found["client_ns"], 0, MOST_NS),
            server_ns=integer_of("pong.server_ns", found["server_ns"], 0, MOST_NS),
        )


def client_message(data: Mapping[str, Any], facts: PolicyFacts) -> Infer | Ping:
    """Returns what a robot sent.

    Raises:
        WireError: it is no message of a robot.
    """
    kind = kind_of(data)
    if kind == "infer":
        return Infer.from_data(data, facts)
    if kind == "ping":
        return Ping.from_data(data)
    raise WireError("message: expected type infer or ping, got another one", "malformed")


def server_message(data: Mapping[str, Any], facts: PolicyFacts) -> Answer | Refusal | Pong:
    """Returns what a server sent after its Hello.

    Raises:
        WireError: it is no such message.
    """
    kind = kind_of(data)
    if kind == "answer":
        return Answer.from_data(data, facts)
    if kind == "refusal":
        return Refusal.from_data(data)
    if kind == "pong":
        return Pong.from_data(data)
    raise WireError("message: expected type answer, refusal or pong, got another one", "malformed")


_INFER_KEYS = (
    *("type", "session", "sequence", "sent_ns", "captured_ns", "budget_ms", "state", "images"),
    "prompt",
)
_INFER_OPTIONAL = ("noise", "seed", "index", "continued")
_ANSWER_KEYS = (
    *("type", "sequence", "actions", "captured_ns", "received_ns", "sent_ns"),
    "times_ms",
)


def _session(where: str, value: object) -> str:
    text = text_of(where, value, 128)
    if not (text.isascii() and text.isalnum() and len(text) >= 16):
        raise WireError(f"{where}: expected 16 to 128 letters and digits, got another text")
    return text


def _times(where: str, value: object, cameras: tuple[str, ...]) -> dict[str, int]:
    times = object_of(where, value)
    for name in times:
        if name != STATE and name not in cameras:
            raise WireError(f"{where}: expected {STATE} and cameras of the policy, got another key")
    return {name: integer_of(f"{where}.{name}", ns, 0, MOST_NS) for name, ns in times.items()}


def _images(value: object, cameras: tuple[str, ...]) -> dict[str, NDArray[np.uint8] | bytes]:
    images = object_of("infer.images", value)
    if images.keys() != set(cameras):
        found = ", ".join(ascii(name)[1:-1][:40] for name in list(images)[:12])
        raise WireError(
            f"infer.images: expected {', '.join(cameras)}, got {found or 'none'}", "missing"
        )
    for camera, image in images.items():
        if not isinstance(image, bytes | np.ndarray):
            raise WireError(f"infer.images.{camera}: expected a picture", "bad_picture")
    return {camera: images[camera] for camera in cameras}
