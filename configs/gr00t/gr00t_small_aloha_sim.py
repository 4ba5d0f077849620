"""A small GR00T that passes a cube from hand to hand; trains in 20 minutes on two CPU cores.

flux-data demo aloha-sim --episodes 50 --out demo_output/demonstrations
flux-data pack demo_output/demonstrations --size 96x128
flux-train configs/gr00t/gr00t_small_aloha_sim.py demo_output/gr00t

The demonstrations take 5 minutes, packing them half a minute (optional: it saves decoding).
"""

from flux_train import recipes

model = recipes.small_gr00t_model(action_horizon=32)

train_dataloader = recipes.small_aloha_sim_data(
    data_root_path="demo_output/demonstrations",
    action_horizon=32,
    batch_size=16,
    policy="gr00t",
)

runner = recipes.small_runner(max_steps=8000, learning_rate=2e-3, num_noise_samples=1)

inference = recipes.small_aloha_sim_inference(policy="gr00t", execution_horizon=16)
