"""A small GR00T that passes a cube from hand to hand; trains in minutes on two CPU cores.

flux-data demo aloha-sim --episodes 50 --out demo_output/demonstrations
flux-train configs/gr00t/gr00t_small_aloha_sim.py demo_output/gr00t
"""

from flux_train import recipes

model = recipes.small_gr00t_model(action_horizon=32)

train_dataloader = recipes.small_aloha_sim_data(
    data_root_path="demo_output/demonstrations",
    action_horizon=32,
    batch_size=8,
    policy="gr00t",
)

runner = recipes.small_runner(max_steps=2400)

inference = recipes.small_aloha_sim_inference(policy="gr00t", execution_horizon=16)
