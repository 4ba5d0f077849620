"""pi0.5 on a UR3: your own data, with the vision-language model frozen.

bash scripts/train.sh configs/pi05/pi05_paligemma_ur3_full_train.py work_dirs/pi05_ur3
"""

from flux_train import recipes

model = recipes.pi05_model(
    action_horizon=32,
    action_dim=7,
    freeze_vlm_backbone=True,
    pretrained_name_or_path="checkpoints/pi05_base/model.safetensors",
)

train_dataloader = recipes.robot_data(
    "pi05",
    ur3=["datasets/RealRobot_UR3_lerobot_v2"],
    tokenizer_path="checkpoints/pi05_base",
)

runner = recipes.full_runner(
    sharding_strategy="no-shard",
    learning_rate=5e-5,
    weight_decay=0.01,
    max_epochs=6,
    warmup_ratio=0.03,
)

inference = recipes.robot_inference(
    "pi05",
    ur3={"1": "grasp the measuring cylinder"},
)
