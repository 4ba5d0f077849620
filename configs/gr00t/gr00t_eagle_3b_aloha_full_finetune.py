"""GR00T-N1.5 on two Aloha arms: your own data, every weight, from NVIDIA's GR00T-N1.5-3B.

bash scripts/train.sh configs/gr00t/gr00t_eagle_3b_aloha_full_finetune.py work_dirs/aloha
"""

from flux_train import recipes

model = recipes.gr00t_model(
    n_action_steps=32,
    loss_action_dim=14,
    pretrained_name_or_path="checkpoints/GR00T-N1.5-3B",
)

train_dataloader = recipes.robot_data(
    "gr00t",
    aloha=["datasets/RealRobot_AgileX_aloha_lerobot_v2"],
    tokenizer_path="checkpoints/eagle2_hg_model",
    relative=False,
)

runner = recipes.full_runner(
    learning_rate=2e-5,
    max_epochs=6,
    lr_scheduler_type="constant",
)

inference = recipes.robot_inference(
    "gr00t",
    aloha_variant="aloha-agilex",
    aloha={
        "1": "pick up the yellow chicken toy with left arm",
        "2": "place it in the brown flat cardboard box with right arm",
    },
    relative=False,
)
