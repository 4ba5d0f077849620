"""GR00T-N1.5 on a UR3: your own data, every weight, from NVIDIA's GR00T-N1.5-3B.

bash scripts/train.sh configs/gr00t/gr00t_eagle_3b_ur3_full_finetune.py work_dirs/ur3
"""

from flux_train import recipes

model = recipes.gr00t_model(
    n_action_steps=32,
    loss_action_dim=7,
    pretrained_name_or_path="checkpoints/GR00T-N1.5-3B",
)

train_dataloader = recipes.robot_data(
    "gr00t",
    ur3=["datasets/RealRobot_UR3_lerobot_v2"],
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
    ur3={"1": "grasp the measuring cylinder"},
    relative=False,
)
