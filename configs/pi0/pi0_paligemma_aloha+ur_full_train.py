"""pi0 on Aloha and UR3 together, each robot with its own statistics.

bash scripts/train.sh configs/pi0/pi0_paligemma_aloha+ur_full_train.py work_dirs/pi0_aloha+ur
"""

from flux_train import recipes

model = recipes.pi0_model(
    action_horizon=32,
    action_dim=14,
    freeze_vlm_backbone=True,
    pretrained_name_or_path="checkpoints/pi0_base/model.safetensors",
)

train_dataloader = recipes.robot_data(
    "pi0",
    aloha=["datasets/RealRobot_AgileX_aloha_lerobot_v2"],
    ur3=["datasets/RealRobot_UR3_lerobot_v2"],
    tokenizer_path="checkpoints/pi0_base",
)

runner = recipes.full_runner(
    sharding_strategy="no-shard",
    learning_rate=2e-5,
    max_epochs=5,
    lr_scheduler_type="constant",
)

inference = recipes.robot_inference(
    "pi0",
    aloha_variant="aloha-agilex",
    aloha={
        "1": "pick up the yellow chicken toy with left arm",
        "2": "place it in the brown flat cardboard box with right arm",
    },
    ur3={"1": "grasp the measuring cylinder"},
)
