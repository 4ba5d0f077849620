"""A small pi0.5 for one robot: from scratch, in minutes, on two CPU cores.

The classes are those of the 3.3 B model; only the sizes differ, and the image backbone is
convolutional (see `flux_core.models.layers.conv_backbone` for why).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_core.config import unbind
from flux_core.robots import RobotSpec, robot_spec
from flux_core.tokenizers import FIRST_NUMBER_ID, NUMBERS_PER_TABLE, ByteTokenizer

from .columns import Columns, Section
from .runners import collator

ACTIONS_PER_TOKEN = 4
MIN_RANGE = 0.06  # rad, m or normalised: several joints hardly move in these tasks
LIBERO_OBJECTS = (
    *("alphabet soup", "cream cheese", "salad dressing", "bbq sauce", "ketchup"),
    *("tomato sauce", "butter", "milk", "chocolate pudding", "orange juice"),
)


@dataclass(frozen=True, kw_only=True)
class SmallRobot:
    """The facts about a robot that the recipes need.

    Attributes:
        name: the name of its description and of its statistics.
        runner: its inference runner.
        cameras: the network's cameras, each at `image_size`.
        image_size: height and width, pixels.
        tasks: its task texts, by the key that selects one.
        words: the fixed texts of the prompt, each of which becomes one token, to keep prompts
            short. Any other text takes one token per byte.
        prompt_length: the number of tokens in a prompt, including padding.
        description: the robot's, if no installed package describes it.
    """

    name: str
    runner: str = "InferenceRunner"
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    tasks: Mapping[str, str]
    words: tuple[str, ...] = ()
    prompt_length: int
    description: RobotSpec | None = None

    @property
    def spec(self) -> RobotSpec:
        """The robot's description."""
        return robot_spec(self.name) if self.description is None else self.description

    @property
    def action_dim(self) -> int:
        """Dimensions of an action."""
        return self.spec.action_dim

    @property
    def tokenizer(self) -> ByteTokenizer:
        """The tokenizer of its prompts; each dimension of the state has its own bins."""
        return ByteTokenizer(words=self.words, number_tables=self.spec.state_dim)


ALOHA_SIM = SmallRobot(
    name="aloha-sim",
    runner="AlohaSimInferenceRunner",
    cameras=("cam_high",),
    image_size=(96, 128),
    tasks={"1": "transfer the cube"},
    words=("Task:", " transfer", " the", " cube", ", State:", ";\nAction: "),
    prompt_length=32,
)
LIBERO_OBJECT = SmallRobot(
    name="libero",
    runner="LiberoInferenceRunner",
    cameras=("image", "wrist_image"),
    image_size=(96, 96),
    tasks={
        str(number): f"pick up the {thing} and place it in the basket"
        for number, thing in enumerate(LIBERO_OBJECTS)
    },
    words=(
        "Task: pick up the",
        *(f" {thing}" for thing in LIBERO_OBJECTS),
        *(" and place it in the basket", ", State:", ";\nAction: "),
    ),
    prompt_length=24,
)


def small_pi05_model(
    *,
    action_horizon: int,
    width: int = 128,
    depth: int = 2,
    robot: SmallRobot = ALOHA_SIM,
    rtc_training_config: Section | None = None,
) -> dict[str, Any]:
    """The network: `depth` joint layers of `width`.

    Args:
        action_horizon: steps of a chunk.
        width: of a token.
        depth: number of layers.
        robot: whose policy it is.
        rtc_training_config: fields of `RTCTrainingConfig`, such as `max_delay=17`: trains chunks
            that continue the running one. Delays are multiples of `ACTIONS_PER_TOKEN`, so 17 trains
            0, 4, 8, 12 and 16. None: trains none.
    """
    height_px, width_px = robot.image_size
    tokenizer = robot.tokenizer
    gemma = dict(
        type="ConditionGemmaModel",
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
    )
    token_dim = ACTIONS_PER_TOKEN * robot.action_dim
    return dict(
        type="PI05FlowMatching",
        vision_backbone=dict(
            type="ConvBackbone", image_height=height_px, image_width=width_px, hidden_size=64
        ),
        number_tokens=dict(
            first=FIRST_NUMBER_ID, tables=tokenizer.number_tables, size=NUMBERS_PER_TABLE
        ),
        projector=dict(type="LinearProjector", in_dim=64, out_dim=width),
        llm_backbone=dict(gemma, vocab_size=tokenizer.vocab_size),
        llm_expert=dict(gemma, use_adarms=True, adarms_cond_dim=width),
        proj_width=width,
        n_action_steps=action_horizon,
        actions_per_token=ACTIONS_PER_TOKEN,
        action_in_proj=dict(type="LinearProjector", in_dim=token_dim, out_dim=width),
        action_out_proj=dict(type="LinearProjector", in_dim=width, out_dim=token_dim),
        max_action_dim=robot.action_dim,
        num_inference_steps=10,
        rtc_training_config=None if rtc_training_config is None else dict(rtc_training_config),
    )


def shared_transforms(robot: SmallRobot) -> list[dict[str, Any]]:
    """The transforms of an observation, the same in training and on the robot."""
    height, width = robot.image_size
    tokenizer = dict(
        type="ByteTokenizer",
        words=list(robot.words),
        number_tables=robot.tokenizer.number_tables,
    )
    return [
        dict(type="NormalizeStatesAndActions", norm_type="quantile"),
        dict(type="PreparePromptWithState"),
        dict(type="ProcessPrompts", tokenizer=tokenizer, max_len=robot.prompt_length),
        dict(type="ResizeImages", height=height, width=width),
        dict(type="SimpleNormalizeImages"),
    ]


def small_data(
    robot: SmallRobot,
    *,
    data_root_path: str,
    action_horizon: int,
    batch_size: int,
    num_workers: int = 1,
    columns: Columns | Section | None = None,
    units: Sequence[Section] = (),
) -> Section:
    """Batches from demonstrations of one robot, with recorded actions.

    Args:
        robot: whose they are.
        data_root_path: a LeRobot directory.
        action_horizon: steps of a chunk.
        batch_size: samples per step.
        num_workers: of the data loader.
        columns: the dataset's names for state, actions and cameras; default: LeRobot's.
        units: transforms before the normalisation.
    """
    loader = dict(per_device_batch_size=batch_size, per_device_num_workers=num_workers)
    dataset = _dataset(robot, data_root_path, action_horizon, Columns.read(columns), units)
    return dict(loader, dataset=dataset)


def small_aloha_sim_data(
    *,
    data_root_path: str,
    action_horizon: int,
    batch_size: int,
    num_workers: int = 1,
    columns: Columns | Section | None = None,
) -> Section:
    """Batches from demonstrations of the simulated ALOHA.

    `columns` are the dataset's names for state, actions and cameras; default: LeRobot's.
    """
    return small_data(
        ALOHA_SIM,
        data_root_path=data_root_path,
        action_horizon=action_horizon,
        batch_size=batch_size,
        num_workers=num_workers,
        columns=columns,
    )


def small_libero_object_data(
    *,
    data_root_path: str,
    action_horizon: int,
    batch_size: int,
    num_workers: int = 1,
    columns: Columns | Section | None = None,
) -> Section:
    """Batches from demonstrations of LIBERO-Object's tasks, or some of them.

    `columns` are the dataset's names for state, actions and cameras; default: LeRobot's.
    """
    return small_data(
        LIBERO_OBJECT,
        data_root_path=data_root_path,
        action_horizon=action_horizon,
        batch_size=batch_size,
        num_workers=num_workers,
        columns=columns,
    )


def _dataset(
    robot: SmallRobot,
    data_root_path: str,
    action_horizon: int,
    columns: Columns,
    units: Sequence[Section],
) -> Section:
    dataset = dict(
        type="ParquetDataset",
        data_root_path=data_root_path,
        transforms=[columns.inputs(robot.cameras), *units, *shared_transforms(robot)],
        action_window_size=action_horizon,
        **columns.window(),
    )
    return dict(
        type="DistributedRepeatingDataset",
        statistic_name=robot.name,
        min_range=MIN_RANGE,
        datasets=dataset,
        **columns.statistics(),
    )


def small_runner(**settings: Any) -> dict[str, Any]:
    """Optimisation of a small policy from scratch; `settings` override."""
    defaults = dict(
        type="SingleTrainRunner",
        learning_rate=3e-3,
        weight_decay=1e-4,
        warmup_ratio=0.03,
        ema_decay=0.995,
        num_noise_samples=4,
        # The tensors are too small for two threads; the second core runs the data loader.
        num_threads=1,
        # CPUs without bf16 units emulate half precision, which is ten times slower.
        enable_mixed_precision_training=False,
        collator=collator(),
    )
    return {**defaults, **settings}


def small_inference(
    robot: SmallRobot, /, *, units: Sequence[Section] = (), **settings: Any
) -> dict[str, Any]:
    """How a robot runs the policy.

    Args:
        robot: which one.
        units: transforms before the normalisation: those of training, without those that only
            training has.
        settings: further keys of its runner, such as `robot` for another description of it.
    """
    if robot.runner == "InferenceRunner":
        described = robot.description
        settings.setdefault("robot", robot.name if described is None else unbind(described))
    return dict(
        type=robot.runner,
        task_descriptions=dict(robot.tasks),
        dataset=dict(
            type="ObservationTransforms",
            img_keys=list(robot.cameras),
            transforms=[*units, *shared_transforms(robot)],
        ),
        denormalize_action=dict(type="DenormalizeActions", norm_type="quantile"),
        **settings,
    )


def small_aloha_sim_inference(**settings: Any) -> dict[str, Any]:
    """How the simulated ALOHA runs the policy; `settings` are further keys of its runner."""
    return small_inference(ALOHA_SIM, **settings)


def small_libero_object_inference(**settings: Any) -> dict[str, Any]:
    """How LIBERO's Panda runs the policy; `settings` are further keys of its runner."""
    return small_inference(LIBERO_OBJECT, **settings)
