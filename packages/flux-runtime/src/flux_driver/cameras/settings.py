"""What a user says of a camera: LeRobot's keys where it has the same, checked before use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Mapping

from .source import CameraError

ROTATIONS = {0: 0, 90: 90, 180: 180, 270: 270, -90: 270}
ALIASES = {"realsense": "intelrealsense"}
COMMON = ("type", "fps", "width", "height", "rotation", "color_mode", "warmup_s")
KEYS = {
    "opencv": ("index_or_path", "fourcc", "backend"),
    "intelrealsense": ("serial_number_or_name", "color_format", "use_depth"),
    "video": ("path", "loop"),
}
REQUIRED = {
    "opencv": "index_or_path",
    "intelrealsense": "serial_number_or_name",
    "video": "path",
}


@dataclass(frozen=True)
class CameraSettings:
    """One camera.

    Attributes:
        type: 'opencv', 'intelrealsense' or 'video'.
        device: index, path or address; serial number or name; the video's path.
        fps: images per second; None: what the device does by itself.
        width: of the image that is passed on, after `rotation`; None: what the device does.
        height: the same.
        rotation: degrees clockwise: 0, 90, 180 or 270.
        warmup_s: how long the images after opening are thrown away, for the exposure to settle.
        fourcc: pixel format of an OpenCV source, such as 'MJPG'.
        backend: number of an OpenCV backend; 0 for the right one.
        color_format: 'rgb8' or 'bgr8', as a RealSense is asked for it.
        loop: whether a video begins again at its end.
    """

    type: str
    device: Any
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    rotation: int = 0
    warmup_s: float = 1.0
    fourcc: str | None = None
    backend: int = 0
    color_format: str = "rgb8"
    loop: bool = False

    @property
    def capture_size(self) -> tuple[int | None, int | None]:
        """Width and height of the image that the device is to give, before `rotation`."""
        if self.rotation in (90, 270):
            return self.height, self.width
        return self.width, self.height


def camera_settings(config: Mapping[str, Any]) -> CameraSettings:
    """Returns the settings of one camera from what a user wrote.

    Raises:
        CameraError: a key is unknown or missing, or a value is none that the key can have.
    """
    if not isinstance(config, Mapping):
        raise CameraError(f"expected a mapping with a type, got {config!r:.60}")
    kind = ALIASES.get(str(config.get("type")), str(config.get("type")))
    if kind not in KEYS:
        known = ", ".join([*KEYS, *ALIASES])
        raise CameraError(f"type: expected one of {known}, got {config.get('type')!r:.60}")
    accepted = [*COMMON, *KEYS[kind]]
    unknown = [str(key) for key in config if key not in accepted]
    if unknown:
        raise CameraError(f"{unknown[0]}: no such key of a {kind} camera ({', '.join(accepted)})")
    device = config.get(REQUIRED[kind])
    if device is None or device == "":
        raise CameraError(f"{REQUIRED[kind]}: expected a value, got none")
    _check_choices(config)
    names = {field.name for field in fields(CameraSettings)} - {"type", "device"}
    given = {key: value for key, value in config.items() if key in names and value is not None}
    numbers = {key: _number(key, given[key]) for key in ("fps", "width", "height") if key in given}
    if "rotation" in given:
        given["rotation"] = ROTATIONS[given["rotation"]]
    if "warmup_s" in given:
        given["warmup_s"] = _number("warmup_s", given["warmup_s"], least=0.0)
    elif kind == "video":
        given["warmup_s"] = 0.0
    settings = CameraSettings(kind, device, **{**given, **numbers})
    if kind == "intelrealsense" and len(numbers) not in (0, 3):
        raise CameraError("fps, width, height: expected all three or none for a RealSense")
    return settings


def _check_choices(config: Mapping[str, Any]) -> None:
    choices: dict[str, tuple[Any, ...]] = {
        "rotation": tuple(ROTATIONS),
        "color_mode": ("rgb",),
        "color_format": ("rgb8", "bgr8"),
        "use_depth": (False,),
        "loop": (False, True),
    }
    for key, accepted in choices.items():
        found = config.get(key)
        if found is not None and found not in accepted:
            expected = " or ".join(str(choice) for choice in accepted)
            raise CameraError(f"{key}: expected {expected}, got {found!r:.60}")
    fourcc = config.get("fourcc")
    if fourcc is not None and (not isinstance(fourcc, str) or len(fourcc) != 4):
        raise CameraError(f"fourcc: expected four characters such as MJPG, got {fourcc!r:.60}")
    backend = config.get("backend", 0)
    if isinstance(backend, bool) or not isinstance(backend, int):
        raise CameraError(f"backend: expected the number of an OpenCV backend, got {backend!r:.60}")


def _number(key: str, found: Any, least: float | None = None) -> Any:
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    is_whole = is_number and (key not in ("width", "height") or found == int(found))
    if (
        not is_whole
        or not (found > 0 if least is None else found >= least)
        or found == float("inf")
    ):
        kind = "a whole number" if key in ("width", "height") else "a number"
        bound = "above 0" if least is None else "that is not negative"
        raise CameraError(f"{key}: expected {kind} {bound}, got {found!r:.60}")
    return int(found) if key in ("width", "height") else float(found)
