"""Inverse kinematics of one simulated ViperX arm: damped least squares on a private copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flux_core.sim import import_mujoco

PINCH_M = 0.14  # from gripper_link along its x axis to between the fingertips
MAX_ITERATIONS = 20
TOLERANCE = 2e-4  # m and rad
DAMPING = 1e-3
MAX_JOINT_STEP_RAD = 0.2  # per iteration: keeps the solution on its branch if the start is far away

Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class GripperPose:
    """The target of the fingertips. The yaw is not free: it follows the arm's own plane.

    With a fixed world yaw the forearm roll and the wrist rotation work against each other and jump
    between branches; in the arm's plane the forearm roll stays at 0 and every joint moves slowly.

    Attributes:
        position: (3,) pinch point in the world, m.
        pitch: angle of the fingers below the horizon, rad: 0 level, pi/2 straight down.
        roll: angle about the fingers' direction, rad: with 0 they close sideways, with pi/2 from
            above and below.
    """

    position: NDArray[np.float64]
    pitch: float
    roll: float


class ArmIk:
    """Solves for the six joints of one arm, starting from its last solution."""

    def __init__(self, model: Any, side: Side, start: NDArray[np.float64]) -> None:
        """Takes the scene's MjModel and the joints (6,) rad to start from."""
        self._mujoco: Any = import_mujoco()
        self._model = model
        self._data: Any = self._mujoco.MjData(model)
        self._joints = slice(0, 6) if side == "left" else slice(8, 14)  # qpos and dof addresses
        self._gripper = int(model.body(f"vx300s_{side}/gripper_link").id)
        self._base: NDArray[np.float64] = np.array(model.body(f"vx300s_{side}").pos)
        self._lower, self._upper = model.jnt_range[self._joints].T
        self._data.qpos[self._joints] = start

    def solve(self, pose: GripperPose) -> NDArray[np.float64]:
        """Returns joints (6,) rad that reach `pose`, near the last solution.

        If the pose is out of reach, these are the best joints after 20 iterations.
        """
        target = self._orientation(pose)
        for _ in range(MAX_ITERATIONS):
            error, jacobian = self._error(pose.position, target)
            if np.abs(error).max() < TOLERANCE:
                break
            damped = jacobian @ jacobian.T + DAMPING**2 * np.eye(6)
            step = jacobian.T @ np.linalg.solve(damped, error)
            step *= min(1.0, MAX_JOINT_STEP_RAD / max(float(np.abs(step).max()), 1e-9))
            joints = np.clip(self._data.qpos[self._joints] + step, self._lower, self._upper)
            self._data.qpos[self._joints] = joints
        return np.array(self._data.qpos[self._joints])

    def residual(self, pose: GripperPose) -> float:
        """Returns the largest error of the last solution against `pose`, m or rad."""
        return float(np.abs(self._error(pose.position, self._orientation(pose))[0]).max())

    def pinch_point(self) -> NDArray[np.float64]:
        """Returns the position of the fingertips in the last solution, (3,) m."""
        self._update()
        return self._pinch()

    def _orientation(self, pose: GripperPose) -> NDArray[np.float64]:
        """Returns the (3, 3) gripper frame: yaw of the arm's plane, then pitch, then roll."""
        away = pose.position - self._base
        yaw = np.arctan2(away[1], away[0])
        return _rotation(2, yaw) @ _rotation(1, pose.pitch) @ _rotation(0, pose.roll)

    def _update(self) -> None:
        self._mujoco.mj_kinematics(self._model, self._data)
        self._mujoco.mj_comPos(self._model, self._data)

    def _frame(self) -> NDArray[np.float64]:
        return np.array(self._data.xmat[self._gripper]).reshape(3, 3)

    def _pinch(self) -> NDArray[np.float64]:
        return np.array(self._data.xpos[self._gripper]) + PINCH_M * self._frame()[:, 0]

    def _error(
        self, position: NDArray[np.float64], target: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the error, (6,) m and rad in the world frame, and the Jacobian (6, 6)."""
        self._update()
        frame, pinch = self._frame(), self._pinch()
        turn = 0.5 * np.cross(frame.T, target.T).sum(axis=0)
        jacobian = np.zeros((6, self._model.nv))
        self._mujoco.mj_jac(
            self._model, self._data, jacobian[:3], jacobian[3:], pinch, self._gripper
        )
        return np.concatenate([position - pinch, turn]), jacobian[:, self._joints]


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    """Returns the right-handed rotation (3, 3) about one axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix
