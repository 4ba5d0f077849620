"""A small pi0.5 or GR00T for one robot: from scratch, in minutes, on two CPU cores.

The classes are those of the full-size networks; only the sizes differ, and the image backbone is
convolutional (see `flux_core.models.layers.conv_backbone` for why).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flux_core.config import bind, unbind
from flux_core.robots import RobotSpec, robot_spec
from flux_core.tokenizers import FIRST_NUMBER_ID, NUMBERS_PER_TABLE, ByteTokenizer
from flux_core.transforms import IMAGE_TOKEN, prompt_words

from .columns import Columns, Section
from .runners import collator

Policy = Literal["pi05", "gr00t"]

ACTIONS_PER_TOKEN = 4
IMAGE_TOKENS = 4
"""Of an image in GR00T's prompt."""
GR00T_PROMPT = 8
"""Tokens of GR00T's prompt that are neither an image's nor the task's, at most."""
DROPPED_STATES = 0.75
"""Share of GR00T's training samples without their state; see `DropStates`."""
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
        """The tokenizer of pi0.5's prompts; each dimension of the state has its own bins."""
        return ByteTokenizer(words=self.words, number_tables=self.spec.state_dim)

    @property
    def gr00t_tokenizer(self) -> ByteTokenizer:
        """The tokenizer of GR00T's prompts, which hold images but no state."""
        return ByteTokenizer(words=(*prompt_words(len(self.cameras)), *self.words))


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
    vision_backbone: Section | None = None,
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
        vision_backbone: another one than the small `ConvBackbone`, for images of the robot's size.
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
    if vision_backbone is None:
        vision_backbone = dict(
            type="ConvBackbone", image_height=height_px, image_width=width_px, hidden_size=64
        )
    vision_width: int = bind(Any, vision_backbone, "model.vision_backbone").out_dim
    return dict(
        type="PI05FlowMatching",
        vision_backbone=dict(vision_backbone),
        number_tokens=dict(
            first=FIRST_NUMBER_ID, tables=tokenizer.number_tables, size=NUMBERS_PER_TABLE
        ),
        projector=dict(type="LinearProjector", in_dim=vision_width, out_dim=width),
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


def small_gr00t_model(
    *,
    action_horizon: int,
    width: int = 128,
    depth: int = 4,
    robot: SmallRobot = ALOHA_SIM,
    rtc_training_config: Section | None = None,
) -> Section:
    """GR00T with one embodiment.

    Args:
        action_horizon: steps of a chunk.
        width: of a token, in all parts.
        depth: number of blocks of the diffusion transformer; the language model and the mixer have
            one layer.
        robot: whose policy it is.
        rtc_training_config: as in `small_pi05_model`.
    """
    height_px, width_px = robot.image_size
    tokenizer = robot.gr00t_tokenizer
    heads = dict(num_attention_heads=4, attention_head_dim=width // 4)
    # The decoder's ReLUs must let the noise through almost exactly.
    hidden = 3 * width
    return dict(
        type="GR00TFlowMatching",
        vision_backbone=dict(
            type="ConvBackbone",
            image_height=height_px,
            image_width=width_px,
            hidden_size=64,
            num_tokens=IMAGE_TOKENS,
        ),
        projector=dict(type="LinearProjector", in_dim=64, out_dim=width),
        llm_backbone=dict(
            type="Qwen3Backbone",
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=width // 4,
            vocab_size=tokenizer.vocab_size,
        ),
        vl_self_attention=dict(type="VLSelfAttention", num_layers=1, dropout=0.0, **heads),
        dit=dict(
            type="DiT",
            num_layers=depth,
            output_dim=hidden,
            cross_attention_dim=width,
            dropout=0.0,
            **heads,
        ),
        image_places=dict(
            type="ImagePlaces", token_id=tokenizer.encode(IMAGE_TOKEN)[-1], label_tokens=1
        ),
        max_state_dim=robot.spec.state_dim,
        max_action_dim=robot.action_dim,
        hidden_size=hidden,
        num_future_tokens=4,
        num_positions=action_horizon,
        num_embodiments=1,
        n_action_steps=action_horizon,
        num_inference_steps=10,
        rtc_training_config=None if rtc_training_config is None else dict(rtc_training_config),
    )


def shared_transforms(robot: SmallRobot, policy: Policy = "pi05") -> list[Section]:
    """The transforms of an observation, the same in training and on the robot."""
    height, width = robot.image_size
    if policy == "gr00t":
        cameras = len(robot.cameras)
        return [
            dict(
                type="NormalizeStatesAndActions",
                norm_type="quantile",
                state_dim=robot.spec.state_dim,
                action_dim=robot.action_dim,
            ),
            dict(
                type="ProcessPromptsWithImage",
                tokenizer=unbind(robot.gr00t_tokenizer),
                num_images=cameras,
                image_tokens=IMAGE_TOKENS,
                max_len=robot.prompt_length + cameras * IMAGE_TOKENS + GR00T_PROMPT,
            ),
            dict(type="ResizeImages", height=height, width=width),
            dict(type="SimpleNormalizeImages"),
        ]
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
    data_root_path: str | Sequence[str],
    action_horizon: int,
    batch_size: int,
    num_workers: int = 1,
    columns: Columns | Section | None = None,
    units: Sequence[Section] = (),
    policy: Policy = "pi05",
    pictures_of_other_tasks: float = 0.0,
) -> Section:
    """Batches from demonstrations of one robot, with recorded actions.

    Args:
        robot: whose they are.
        data_root_path: a LeRobot directory, or several.
        action_horizon: steps of a chunk.
        batch_size: samples per step.
        num_workers: of the data loader.
        columns: the dataset's names for state, actions and cameras; default: LeRobot's.
        units: transforms before the normalisation.
        policy: 'pi05' or 'gr00t', which decides the prompt.
        pictures_of_other_tasks: as in `ParquetDataset.Config`.
    """
    loader = dict(per_device_batch_size=batch_size, per_device_num_workers=num_workers)
    transforms = [*units, *shared_transforms(robot, policy)]
    if policy == "gr00t":
        transforms.append(dict(type="DropStates", share=DROPPED_STATES))
    dataset = _dataset(robot, data_root_path, action_horizon, Columns.read(columns), transforms)
    if pictures_of_other_tasks:
        dataset["datasets"]["pictures_of_other_tasks"] = pictures_of_other_tasks
    return dict(loader, dataset=dataset)


def small_aloha_sim_data(
    *,
    data_root_path: str,
    action_horizon: int,
    batch_size: int,
    num_workers: int = 1,
    columns: Columns | Section | None = None,
    policy: Policy = "pi05",
) -> Section:
    """Batches from demonstrations of the simulated ALOHA.

    `columns` are the dataset's names for state, actions and cameras; default: LeRobot's. `policy`
    decides the prompt.
    """
    return small_data(
        ALOHA_SIM,
        data_root_path=data_root_path,
        action_horizon=action_horizon,
        batch_size=batch_size,
        num_workers=num_workers,
        columns=columns,
        policy=policy,
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
    data_root_path: str | Sequence[str],
    action_horizon: int,
    columns: Columns,
    transforms: Sequence[Section],
) -> Section:
    dataset = dict(
        type="ParquetDataset",
        data_root_path=(
            data_root_path if isinstance(data_root_path, str) else list(data_root_path)
        ),
        transforms=[columns.inputs(robot.cameras), *transforms],
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
    robot: SmallRobot,
    /,
    *,
    units: Sequence[Section] = (),
    policy: Policy = "pi05",
    **settings: Any,
) -> dict[str, Any]:
    """How a robot runs the policy.

    Args:
        robot: which one.
        units: transforms before the normalisation: those of training, without those that only
            training has.
        policy: 'pi05' or 'gr00t', which decides the prompt.
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
            transforms=[*units, *shared_transforms(robot, policy)],
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
