"""One small pi0.5 for both tasks of the simulated ALOHA, told by words which; an hour on two cores.

flux-data demo aloha-sim --cameras cam_high --episodes 100 --seed 1000 --out data/cube
flux-data demo aloha-sim --task insertion --noise 0.004 --cameras cam_high --episodes 160 \\
  --seed 1000 --out data/peg
flux-data pack data/cube --size 96x128
flux-data pack data/peg --size 96x128
flux-train configs/pi05/pi05_small_aloha_both.py demo_output/both_policy
"""

from flux_train import recipes

_robot = recipes.SmallRobot(
    name="aloha-sim",
    runner="AlohaSimInferenceRunner",
    cameras=("cam_high",),
    image_size=(96, 128),
    tasks={"1": "transfer the cube", "2": "insert the peg into the socket"},
    words=(
        *("Task:", " transfer", " the", " cube", " insert", " peg", " into", " socket"),
        *(", State:", ";\nAction: "),
    ),
    prompt_length=24,
)

_rtc = dict(max_delay=17, temperature=8.0)  # delays of 0, 4, 8, 12 and 16 steps
model = recipes.small_pi05_model(action_horizon=32, robot=_robot, rtc_training_config=_rtc)
model["action_smoothing"] = 1.5

train_dataloader = recipes.small_data(
    _robot,
    data_root_path=("data/cube", "data/peg"),
    action_horizon=32,
    batch_size=8,
    pictures_of_other_tasks=0.03,  # either scene gives its task away; the words count more so
)

runner = recipes.small_runner(max_steps=22000)

inference = recipes.small_inference(_robot, execution_horizon=16)
