"""A small pi0.5 that puts a peg into a socket, an arm for each; trains in minutes on two CPU cores.

flux-data demo aloha-sim --task insertion --noise 0.004 --cameras cam_high --episodes 160 \\
  --seed 1000 --out data/peg
flux-data pack data/peg --size 96x128
flux-train configs/pi05/pi05_small_aloha_insertion.py demo_output/peg_policy
flux-export demo_output/peg_policy/checkpoint_epoch_3.pt --out demo_output/peg_bundle
flux-eval --suite aloha-insertion --bundle demo_output/peg_bundle --seed 100000 --episodes 200
"""

from flux_train import recipes

_robot = recipes.SmallRobot(
    name="aloha-sim",
    runner="AlohaSimInferenceRunner",
    cameras=("cam_high",),
    image_size=(96, 128),
    tasks={"1": "insert the peg into the socket"},
    words=("Task:", " insert", " the", " peg", " into", " socket", ", State:", ";\nAction: "),
    prompt_length=24,
)

model = recipes.small_pi05_model(
    action_horizon=32,
    robot=_robot,
    # Delays of 0, 4, 8, 12 and 16 steps, for real-time chunking.
    rtc_training_config=dict(max_delay=17, temperature=12.0),
)
model["action_smoothing"] = 1.5

train_dataloader = recipes.small_data(
    _robot, data_root_path="data/peg", action_horizon=32, batch_size=8
)

runner = recipes.small_runner(max_steps=9000)

inference = recipes.small_inference(_robot, execution_horizon=16)
