"""Two simulated ViperX arms at a table: gym-aloha's model, rendered at any size.

gym-aloha's own environment renders three 640x480 images on every step and returns one. These
classes step the same MJCF scenes in the same order (so the results are bit-identical), and render
on request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingDependencyError, RobotError
from ..robots import ROBOT_SPECS
from .mujoco_import import (
    close_at_exit,
    import_mujoco,
    opengl_message,
    require_opengl,
    scene_path,
)

CAMERAS = {"cam_high": "top", "cam_left_wrist": "left_wrist", "cam_right_wrist": "right_wrist"}
CONTROL_STEP_S = 0.02
FLICKER_STEPS = 5  # a finger still counts as holding for so long after contact

# gym_aloha/constants.py: the arms at reset (rad), and a finger's slide (m) at gripper 0 and 1.
START_ARM_RAD = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0)
START_FINGER_M = 0.02239
FINGER_CLOSED_M, FINGER_OPEN_M = 0.01844, 0.058

LEFT_FINGER = "vx300s_left/10_left_gripper_finger"  # the fingers that the stock rewards watch
RIGHT_FINGER = "vx300s_right/10_right_gripper_finger"


class AlohaArms(ABC):
    """The arms, the cameras and the time; a subclass adds the objects and the task.

    Args:
        cameras: which of `CAMERAS` `render` returns by default.
        height: image height, pixels.
        width: image width, pixels.
        fast_rendering: no shadows and no antialiasing: about eight times as fast without a GPU.
            Switch it off to compare with published numbers.
    """

    spec = ROBOT_SPECS["aloha-sim"]
    scene: ClassVar[str]

    def __init__(
        self,
        *,
        cameras: Sequence[str] = tuple(CAMERAS),
        height: int = 192,
        width: int = 256,
        fast_rendering: bool = True,
    ) -> None:
        self.cameras = _checked_cameras(cameras)
        self.height, self.width = height, width
        self._mujoco: Any = import_mujoco()
        self.model: Any = self._mujoco.MjModel.from_xml_path(str(scene_path(self.scene)))
        self._set_quality(fast_rendering)
        self.data: Any = self._mujoco.MjData(self.model)
        self._substeps = round(CONTROL_STEP_S / self.model.opt.timestep)
        self._renderer: Any = None
        self._find_objects()
        self.reset(0)

    @property
    def time_s(self) -> float:
        """Simulated time since the reset."""
        return float(self.data.time)

    def reset(self, seed: int) -> None:
        """Moves the arms to their start pose and the objects to gym-aloha's poses for `seed`."""
        self._mujoco.mj_resetData(self.model, self.data)
        fingers = (START_FINGER_M, -START_FINGER_M)
        self.data.qpos[:16] = self.data.ctrl[:] = (*START_ARM_RAD, *fingers) * 2
        self._place_objects(seed)
        self._forward_as_the_stock_reset_does()
        self._steps = 0
        self._begin_stages()

    def state(self) -> NDArray[np.float32]:
        """Returns the joints, (14,) float32: left arm first; rad, grippers 0 closed to 1 open."""
        qpos = self.data.qpos
        left, right = _gripper_from_finger(qpos[6]), _gripper_from_finger(qpos[14])
        return np.asarray([*qpos[:6], left, *qpos[8:14], right], dtype=np.float32)

    def step(self, action: NDArray[np.floating[Any]]) -> None:
        """Commands `action`, (14,) position targets in the units of `state`, for 20 ms."""
        if action.shape != (self.spec.action_dim,):
            raise RobotError(
                f"aloha-sim action: expected shape ({self.spec.action_dim},), got {action.shape}"
            )
        if not np.isfinite(action).all():
            raise RobotError("aloha-sim action: expected finite numbers, got NaN or infinity")
        self.data.ctrl[:] = _controls(np.asarray(action, dtype=np.float64))
        # The order of dm_control's Physics.step: the contacts then belong to the returned state.
        self._mujoco.mj_step2(self.model, self.data)
        self._mujoco.mj_step(self.model, self.data, self._substeps - 1)
        self._mujoco.mj_step1(self.model, self.data)
        self._steps += 1
        self._update_stages()

    def render(self, cameras: Sequence[str] | None = None) -> dict[str, NDArray[np.uint8]]:
        """Renders the cameras' current images: name -> (height, width, 3) uint8 RGB."""
        names = self.cameras if cameras is None else _checked_cameras(cameras)
        if self._renderer is None:
            self._renderer = self._new_renderer()
        images: dict[str, NDArray[np.uint8]] = {}
        for name in names:
            self._renderer.update_scene(self.data, camera=CAMERAS[name])
            images[name] = self._renderer.render()
        return images

    @abstractmethod
    def reward(self) -> int:
        """Returns gym-aloha's current reward, 0 to 4."""

    @abstractmethod
    def stages(self) -> dict[str, bool]:
        """Returns how far the episode has come."""

    def close(self) -> None:
        """Frees the renderer. The simulator can still be stepped and, at some cost, rendered."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _geom(self, name: str) -> int:
        return int(self.model.geom(name).id)

    def _geoms_of(self, prefix: str) -> set[int]:
        geoms = range(self.model.ngeom)
        return {geom for geom in geoms if self.model.geom(geom).name.startswith(prefix)}

    def _touching(self, geom: int) -> set[int]:
        """Returns the geoms in contact with `geom`."""
        pairs = self.data.contact.geom[: self.data.ncon]
        with_it = pairs[(pairs == geom).any(axis=1)]
        return {int(other) for other in with_it.ravel()} - {geom}

    @abstractmethod
    def _find_objects(self) -> None:
        """Looks up the scene's geoms."""

    @abstractmethod
    def _place_objects(self, seed: int) -> None:
        """Writes the objects' poses into `data.qpos`."""

    @abstractmethod
    def _begin_stages(self) -> None:
        """Resets the stages of the last episode."""

    @abstractmethod
    def _update_stages(self) -> None:
        """Updates the stages; `_steps` is the number of steps since the reset."""

    def _forward_as_the_stock_reset_does(self) -> None:
        """Computes the derived quantities twice, as gym-aloha's two nested resets do."""
        flags = self.model.opt.disableflags
        self.model.opt.disableflags = flags | self._mujoco.mjtDisableBit.mjDSBL_ACTUATION
        for _ in range(2):
            self._mujoco.mj_forward(self.model, self.data)
        self.model.opt.disableflags = flags

    def _set_quality(self, fast_rendering: bool) -> None:
        """Sets the options that the renderer reads when it is created."""
        off = self.model.vis.global_
        off.offheight = max(int(off.offheight), self.height)
        off.offwidth = max(int(off.offwidth), self.width)
        if fast_rendering:
            self.model.light_castshadow[:] = 0
            self.model.vis.quality.offsamples = 0

    def _new_renderer(self) -> Any:
        require_opengl()
        try:
            renderer = self._mujoco.Renderer(self.model, height=self.height, width=self.width)
        except Exception as error:  # each OpenGL backend raises its own type
            raise MissingDependencyError(opengl_message(error)) from error
        close_at_exit(renderer)
        return renderer


def _checked_cameras(cameras: Sequence[str]) -> tuple[str, ...]:
    for name in cameras:
        if name not in CAMERAS:
            raise RobotError(f"aloha-sim has no camera {name!r}. It has: {', '.join(CAMERAS)}")
    return tuple(cameras)


def _gripper_from_finger(finger_m: float) -> float:
    return (finger_m - FINGER_CLOSED_M) / (FINGER_OPEN_M - FINGER_CLOSED_M)


def _controls(action: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turns (14,) joints into the scene's (16,) actuators: each gripper is two fingers, m."""
    fingers = action[[6, 13]] * (FINGER_OPEN_M - FINGER_CLOSED_M) + FINGER_CLOSED_M
    left, right = (float(finger) for finger in fingers)
    return np.concatenate([action[:6], (left, -left), action[7:13], (right, -right)])
