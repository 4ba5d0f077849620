"""pi0.5 on two Aloha arms: your own data, with the vision-language model frozen.

bash scripts/train.sh configs/pi05/pi05_paligemma_aloha_full_train.py work_dirs/pi05_aloha
"""

from flux_train import recipes

model = recipes.pi05_model(
    action_horizon=32,
    action_dim=14,
    freeze_vlm_backbone=True,
    pretrained_name_or_path="checkpoints/pi05_base/model.safetensors",
)

train_dataloader = recipes.robot_data(
    "pi05",
    aloha=["datasets/RealRobot_AgileX_aloha_lerobot_v2"],
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
    aloha_variant="aloha-agilex",
    aloha={
        "1": "pick up the yellow chicken toy with left arm",
        "2": "place it in the brown flat cardboard box with right arm",
    },
)
