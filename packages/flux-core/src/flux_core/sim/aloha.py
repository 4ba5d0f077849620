"""The ALOHA transfer-cube scene: gym-aloha's model and rules, rendered at any size.

gym-aloha's own environment renders three 640x480 images on every step and returns one. This class
steps the same MJCF scene in the same order (and so to the same bits), and renders on request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingDependencyError, RobotError
from ..robots import robot_spec
from .mujoco_import import (
    close_at_exit,
    import_mujoco,
    opengl_message,
    require_opengl,
    scene_path,
)

SCENE = "bimanual_viperx_transfer_cube.xml"
CAMERAS = {"cam_high": "top", "cam_left_wrist": "left_wrist", "cam_right_wrist": "right_wrist"}
CONTROL_STEP_S = 0.02
FLICKER_STEPS = 5  # for so long a finger without contact may still hold

# gym_aloha/constants.py: the arms at reset (rad), and a finger's slide (m) at gripper 0 and 1.
START_ARM_RAD = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0)
START_FINGER_M = 0.02239
FINGER_CLOSED_M, FINGER_OPEN_M = 0.01844, 0.058
# gym_aloha/utils.py, sample_box_pose: where the cube may start, m.
CUBE_LOWER_M, CUBE_UPPER_M = (0.0, 0.4, 0.05), (0.2, 0.6, 0.05)

_LEFT_FINGER = "vx300s_left/10_left_gripper_finger"  # the fingers that the stock reward watches
_RIGHT_FINGER = "vx300s_right/10_right_gripper_finger"


class AlohaSim:
    """Two simulated ViperX arms that are to hand a cube from the right one to the left one.

    Args:
        cameras: which of `CAMERAS` `render` returns by default.
        height: image height, pixels.
        width: image width, pixels.
        fast_rendering: no shadows and no antialiasing: some eight times faster without a GPU.
            Switch it off to compare with published numbers.
    """

    spec = robot_spec("aloha-sim")

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
        self.model: Any = self._mujoco.MjModel.from_xml_path(str(scene_path(SCENE)))
        self._set_quality(fast_rendering)
        self.data: Any = self._mujoco.MjData(self.model)
        self._substeps = round(CONTROL_STEP_S / self.model.opt.timestep)
        self._renderer: Any = None
        self._cube, self._table = self._geom("red_box"), self._geom("table")
        self._left_finger, self._right_finger = self._geom(_LEFT_FINGER), self._geom(_RIGHT_FINGER)
        self._left_fingers = {self._left_finger, self._geom("vx300s_left/10_right_gripper_finger")}
        self._left_arm = self._geoms_of("vx300s_left/")
        self.reset(0)

    @property
    def time_s(self) -> float:
        """Simulated time since the reset."""
        return float(self.data.time)

    def reset(self, seed: int) -> None:
        """Puts the arms to their start pose and the cube where gym-aloha puts it for `seed`."""
        mj = self._mujoco
        mj.mj_resetData(self.model, self.data)
        fingers = (START_FINGER_M, -START_FINGER_M)
        self.data.qpos[:16] = self.data.ctrl[:] = (*START_ARM_RAD, *fingers) * 2
        self.data.qpos[-7:] = (*sample_cube_position(seed), 1.0, 0.0, 0.0, 0.0)
        self._forward_as_the_stock_reset_does()
        self._touched = self._lifted = self._transferred = False
        self._steps = 0
        self._left_touch = dict.fromkeys(self._left_fingers, -FLICKER_STEPS - 1)

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
        # The order of dm_control's Physics.step: contacts then belong to the state returned.
        self._mujoco.mj_step2(self.model, self.data)
        self._mujoco.mj_step(self.model, self.data, self._substeps - 1)
        self._mujoco.mj_step1(self.model, self.data)
        self._update_stages()

    def render(self, cameras: Sequence[str] | None = None) -> dict[str, NDArray[np.uint8]]:
        """Returns what the cameras see now: name -> (height, width, 3) uint8 RGB."""
        names = self.cameras if cameras is None else _checked_cameras(cameras)
        if self._renderer is None:
            self._renderer = self._new_renderer()
        images: dict[str, NDArray[np.uint8]] = {}
        for name in names:
            self._renderer.update_scene(self.data, camera=CAMERAS[name])
            images[name] = self._renderer.render()
        return images

    def reward(self) -> int:
        """Returns gym-aloha's reward now: 1 touched, 2 lifted, 3 left touches, 4 transferred."""
        touching = self._touching_cube()
        on_table = self._table in touching
        if self._left_finger in touching:
            return 3 if on_table else 4
        if self._right_finger in touching:
            return 1 if on_table else 2
        return 0

    def stages(self) -> dict[str, bool]:
        """Returns how far the episode has come.

        `touched`, `lifted` and `transferred` were reached at some step, by the contacts of the
        stock reward; `held_by_left_only` is about now: nothing but the left arm touches the
        cube, and both fingers of its gripper do (or did 0.1 s ago: a held cube's contacts flicker).
        """
        touching = self._touching_cube()
        is_gripped = all(self._steps - step <= FLICKER_STEPS for step in self._left_touch.values())
        return {
            "touched": self._touched,
            "lifted": self._lifted,
            "transferred": self._transferred,
            "held_by_left_only": is_gripped and set() < touching <= self._left_arm,
        }

    def cube_position(self) -> NDArray[np.float64]:
        """Returns the centre of the cube in the world, (3,) m. Policies do not get this."""
        return np.array(self.data.qpos[-7:-4])

    def close(self) -> None:
        """Frees the renderer. The simulator may still be stepped and, at some cost, rendered."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> AlohaSim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _geom(self, name: str) -> int:
        return int(self.model.geom(name).id)

    def _geoms_of(self, prefix: str) -> set[int]:
        geoms = range(self.model.ngeom)
        return {geom for geom in geoms if self.model.geom(geom).name.startswith(prefix)}

    def _touching_cube(self) -> set[int]:
        """Returns the geoms in contact with the cube."""
        pairs = self.data.contact.geom[: self.data.ncon]
        with_cube = pairs[(pairs == self._cube).any(axis=1)]
        return {int(geom) for geom in with_cube.ravel()} - {self._cube}

    def _update_stages(self) -> None:
        self._steps += 1
        self._left_touch |= dict.fromkeys(self._touching_cube() & self._left_fingers, self._steps)
        reward = self.reward()
        self._transferred |= reward == 4
        self._lifted |= reward in (2, 4)
        self._touched |= reward > 0

    def _forward_as_the_stock_reset_does(self) -> None:
        """Computes the derived quantities twice, as gym-aloha's two nested resets do."""
        flags = self.model.opt.disableflags
        self.model.opt.disableflags = flags | self._mujoco.mjtDisableBit.mjDSBL_ACTUATION
        for _ in range(2):
            self._mujoco.mj_forward(self.model, self.data)
        self.model.opt.disableflags = flags

    def _set_quality(self, fast_rendering: bool) -> None:
        """Sets what the renderer reads when it is made."""
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
        except Exception as error:  # each OpenGL backend raises its own kind
            raise MissingDependencyError(opengl_message(error)) from error
        close_at_exit(renderer)
        return renderer


def sample_cube_position(seed: int) -> NDArray[np.float64]:
    """Returns the cube's centre at reset, (3,) m, as gym-aloha's sample_box_pose draws it."""
    return np.random.RandomState(seed).uniform(CUBE_LOWER_M, CUBE_UPPER_M)


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
