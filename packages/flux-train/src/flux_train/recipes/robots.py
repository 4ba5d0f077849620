"""Your own robots: two Aloha arms, a UR3, any other with a `RobotSpec`, or several in one run.

Joints, cameras and dimensions come from the robot's `RobotSpec`. Actions are the next states,
because the tutorial's recordings contain no actions, or the recorded actions. Joints are relative
to the state at the chunk's start and grippers are not, as in the training of openpi's base
checkpoints. In a run with several robots, the smaller ones are padded to the dimensions and cameras
of the largest, and the padding is masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

from flux_core.config import bind, did_you_mean, unbind
from flux_core.errors import ConfigError
from flux_core.robots import RobotSpec, gripper_joints, robot_spec, variants_of

from ..config.recipe import RecipeName, dataset_values
from . import pretrained
from .columns import Columns, Section
from .pretrained import Policy

ACTION_HORIZON = 32

Actions = Literal["next_state", "recorded"]

_ALOHA: Section = dict(
    type="AlohaInferenceRunner",
    # The ROS topics of the tutorial's robot.
    operator=dict(
        type="AlohaOperator",
        img_front_topic="/camera_f/color/image_raw",
        img_left_topic="/camera_l/color/image_raw",
        img_right_topic="/camera_r/color/image_raw",
        img_front_depth_topic="/camera_f/depth/image_raw",
        img_left_depth_topic="/camera_l/depth/image_raw",
        img_right_depth_topic="/camera_r/depth/image_raw",
        puppet_arm_left_cmd_topic="/master/joint_left",
        puppet_arm_right_cmd_topic="/master/joint_right",
        puppet_arm_left_topic="/puppet/joint_left",
        puppet_arm_right_topic="/puppet/joint_right",
        robot_base_topic="/odom_raw",
        robot_base_cmd_topic="/cmd_vel",
    ),
)
_UR: Section = dict(type="URInferenceRunner", operator=dict(type="UROperator"))
DEPLOYMENTS: Mapping[str, Section] = {
    "aloha": _ALOHA,
    **{name: dict(_ALOHA, robot=name) for name in variants_of("aloha")},
    "ur3": _UR,
    **{name: dict(_UR, robot=name) for name in ("ur5e", "ur10e")},
}
"""How robots with their own runner are deployed; the operator names the ROS topics."""
_VIPERX = ("aloha", "aloha-viperx")
"""What `adapt_to_pi` converts; `aloha` is taken for ViperX arms unless a variant is named."""
AlohaVariant = Literal["aloha-agilex", "aloha-viperx"]


def robot_data(
    policy: Policy,
    *,
    robots: Mapping[str, Sequence[str]] | None = None,
    aloha: Sequence[str] = (),
    ur3: Sequence[str] = (),
    specs: Sequence[RobotSpec | Section] = (),
    columns: Mapping[str, Columns | Section] | None = None,
    units: Mapping[str, Sequence[Section]] | None = None,
    tokenizer_path: str,
    actions: Actions = "next_state",
    relative: bool = True,
    adapt_to_pi: bool = False,
    keys: Mapping[str, Section] | None = None,
    embodiments: Mapping[str, int | str] | None = None,
    recipe: RecipeName | None = None,
) -> Section:
    """Batches from the recordings of one robot or several, each with its own statistics.

    Args:
        policy: 'pi0', 'pi05' or 'gr00t', which decides prompt and normalisation.
        robots: LeRobot directories by the robot's name.
        aloha: LeRobot directories of two Aloha arms, whichever they are: see `aloha_variant` of
            `robot_inference`.
        ur3: LeRobot directories of a UR3 with a gripper.
        specs: descriptions of the robots in `robots` that no installed package describes.
        columns: robot -> its datasets' names of the state, the actions and the cameras, as
            `dict(state=..., actions=[...], cameras={...})`; omitted ones have LeRobot's names.
        units: robot -> transforms of your own, which come before all others.
        tokenizer_path: a file or folder with the tokenizer, PaliGemma's or Qwen's.
        actions: use the next states, or the recorded actions. A robot that is commanded by
            differences needs the recorded actions.
        relative: whether joints are relative to the chunk's start. Grippers (normalized) and robots
            that are commanded by differences never are.
        adapt_to_pi: converts ViperX arms (Trossen's ALOHA) to pi's joint signs and gripper angles.
        keys: robot -> GR00T's rules of normalisation for each key of its state and actions, as
            `dict(state_keys=[["arm", 6, "min_max"], ...], action_keys=[...])`.
        embodiments: robot -> GR00T's embodiment; default: FluxVLA's number, or a new one.
        recipe: 'openpi' prepares windows as openpi does; use it in `full_runner` too.

    Raises:
        ConfigError: there is no robot, or a robot is unknown, named twice, or lacks such actions.
    """
    roots = _by_robot(robots, aloha=aloha, ur3=ur3)
    known = _described(roots, specs)
    if actions == "next_state":
        _check_states_are_commands(known)
    named = _columns(roots, columns or {})
    own_units = _own_units(roots, units)
    own_keys = _for_gr00t(policy, "keys", keys, roots)
    chosen = _for_gr00t(policy, "embodiments", embodiments, roots)
    next_states = actions == "next_state"
    num_cameras = max(len(spec.cameras) for spec in known.values())
    groups = {
        name: pretrained.dataset(
            policy,
            data_root_path=list(paths),
            tokenizer_path=tokenizer_path,
            cameras=known[name].cameras,
            num_padding_cameras=num_cameras - len(known[name].cameras),
            action_horizon=ACTION_HORIZON,
            units=[
                *own_units.get(name, ()),
                *_units(known, name, relative=relative, adapt_to_pi=adapt_to_pi),
            ],
            columns=named[name],
            robot=name,
            keys=own_keys.get(name),
            embodiment=chosen.get(name),
            **named[name].window(next_states=next_states),
            **dataset_values(recipe),
        )
        for name, paths in roots.items()
    }
    others = [each for each in named.values() if not each.are_lerobots]
    statistics = next(iter(others), Columns()).statistics(next_states=next_states)
    return pretrained.dataloader(
        groups, **statistics, dim=_width(known) if len(groups) > 1 else None
    )


def robot_inference(
    policy: Policy,
    *,
    robots: Mapping[str, Mapping[str, str]] | None = None,
    aloha: Mapping[str, str] | None = None,
    ur3: Mapping[str, str] | None = None,
    aloha_variant: AlohaVariant | None = None,
    specs: Sequence[RobotSpec | Section] = (),
    units: Mapping[str, Sequence[Section]] | None = None,
    relative: bool = True,
    adapt_to_pi: bool = False,
    keys: Mapping[str, Section] | None = None,
) -> Section:
    """How the robots of `robot_data` run the policy: their tasks, by the key that selects one.

    The other arguments are those of `robot_data`, and must be equal; only `units` omits the
    transforms that are for training only. `aloha_variant` says which arms `aloha` has, so that a
    bundle does not have to be told when it is run. Returns one robot's section, or a dict of
    several.

    Raises:
        ConfigError: there is no robot, or a robot is unknown or named twice, or `adapt_to_pi` is
            not for its arms.
    """
    tasks = _by_robot(robots, aloha=aloha or {}, ur3=ur3 or {})
    _check_variant(aloha_variant, tasks, adapt_to_pi=adapt_to_pi)
    known = _described(tasks, specs)
    own_units = _own_units(tasks, units)
    own_keys = _for_gr00t(policy, "keys", keys, tasks)
    written_out = {_bound(spec).name for spec in specs}
    sections: dict[str, Section] = {}
    for name, texts in tasks.items():
        settings = deepcopy(DEPLOYMENTS.get(name, dict(type="InferenceRunner", robot=name)))
        if name in written_out:
            settings["robot"] = unbind(known[name])
        elif name == "aloha" and aloha_variant is not None:
            settings["robot"] = aloha_variant
        sections[name] = pretrained.inference_runner(
            policy,
            type=settings.pop("type"),
            task_descriptions=texts,
            cameras=known[name].cameras,
            units=[
                *own_units.get(name, ()),
                *_units(known, name, relative=relative, adapt_to_pi=adapt_to_pi),
            ],
            keys=own_keys.get(name),
            **settings,
        )
    return sections if len(sections) > 1 else next(iter(sections.values()))


def _by_robot(robots: Mapping[str, Any] | None, **named: Any) -> dict[str, Any]:
    """The robots of a run for which a value is given, `aloha` and `ur3` first."""
    given = {name: value for name, value in named.items() if value}
    for name, value in (robots or {}).items():
        if name in given:
            raise ConfigError(f"robots: {name!r} is also given as {name}=. Remove one of them")
        if not value:
            raise ConfigError(f"robots: {name!r}: expected at least one entry, got none")
        given[name] = value
    if not given:
        raise ConfigError("robots: expected at least one robot, got none")
    return given


def _check_variant(
    variant: AlohaVariant | None, robots: Mapping[str, object], *, adapt_to_pi: bool
) -> None:
    """Refuses a variant of no ALOHA, and ViperX arms' units for other arms."""
    known = variants_of("aloha")
    if variant is None:
        return
    if variant not in known or "aloha" not in robots:
        expected = " or ".join(known)
        raise ConfigError(f"aloha_variant: expected {expected} beside aloha, got {variant!r}")
    if adapt_to_pi and variant not in _VIPERX:
        raise ConfigError(f"adapt_to_pi: expected ViperX arms, got {variant}. Leave it out")


def _columns(
    robots: Mapping[str, object], columns: Mapping[str, Columns | Section]
) -> dict[str, Columns]:
    """Each robot's column names."""
    for name in columns:
        if name not in robots:
            raise ConfigError(
                f"columns: expected some of the robots {', '.join(robots)}, got {name!r}."
                f"{did_you_mean(name, robots)}"
            )
    return {name: Columns.read(columns.get(name)) for name in robots}


def _own_units(
    robots: Mapping[str, object], units: Mapping[str, Sequence[Section]] | None
) -> Mapping[str, Sequence[Section]]:
    """`units`, if they are all of robots of this run."""
    if unknown := sorted(set(units or {}) - robots.keys()):
        raise ConfigError(f"units: expected the robots {', '.join(robots)}, got {unknown[0]!r}")
    return units or {}


def _for_gr00t(
    policy: Policy, name: str, given: Mapping[str, Any] | None, robots: Mapping[str, object]
) -> Mapping[str, Any]:
    """An argument that only GR00T has, if it is of robots of this run."""
    if given and policy != "gr00t":
        raise ConfigError(f"{name}: expected policy 'gr00t', got {policy!r}")
    if unknown := sorted(set(given or {}) - robots.keys()):
        raise ConfigError(f"{name}: expected the robots {', '.join(robots)}, got {unknown[0]!r}")
    return given or {}


def _described(
    names: Mapping[str, object], specs: Sequence[RobotSpec | Section]
) -> dict[str, RobotSpec]:
    """The robots' descriptions: from `specs`, or by name."""
    written = {spec.name: spec for spec in map(_bound, specs)}
    if unused := sorted(written.keys() - names.keys()):
        raise ConfigError(f"specs: expected the robots {', '.join(names)}, got {unused[0]!r}")
    return {name: written[name] if name in written else robot_spec(name) for name in names}


def _bound(spec: RobotSpec | Section) -> RobotSpec:
    return bind(RobotSpec, spec, "specs")


def _check_states_are_commands(robots: Mapping[str, RobotSpec]) -> None:
    for name, spec in robots.items():
        if spec.is_commanded_by_differences:
            raise ConfigError(
                f"actions: {name} is commanded by differences, so its next states are not actions. "
                f"Use actions='recorded'"
            )


def _width(robots: Mapping[str, RobotSpec]) -> int:
    """Dimensions of the largest state or action in the run."""
    return max(max(spec.state_dim, spec.action_dim) for spec in robots.values())


def _units(
    robots: Mapping[str, RobotSpec], name: str, *, relative: bool, adapt_to_pi: bool
) -> list[Section]:
    """The transforms before the normalisation, the same in training and on the robot."""
    spec, width = robots[name], _width(robots)
    is_adapted = adapt_to_pi and name in _VIPERX
    units: list[Section] = [dict(type="AlohaToPi")] if is_adapted else []
    mask = [not is_gripper for is_gripper in gripper_joints(spec)]
    if relative and any(mask) and not spec.is_commanded_by_differences:
        units.append(dict(type="RelativeActions", mask=mask))
    if len(robots) > 1 and min(spec.state_dim, spec.action_dim) < width:
        units.append(dict(type="PadKeyToDim", keys=["actions", "states"], dim=width))
    return units
