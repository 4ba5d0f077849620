"""A small pi0.5 that passes a cube from hand to hand; trains in minutes on two CPU cores.

flux-data demo aloha-sim --episodes 50 --out demo_output/demonstrations
flux-train configs/pi05/pi05_small_aloha_sim.py demo_output/policy
"""

from flux_train import recipes

model = recipes.small_pi05_model(action_horizon=32)

train_dataloader = recipes.small_aloha_sim_data(
    data_root_path="demo_output/demonstrations",
    action_horizon=32,
    batch_size=8,
)

runner = recipes.small_runner(max_steps=2400)

inference = recipes.small_aloha_sim_inference(execution_horizon=16)
