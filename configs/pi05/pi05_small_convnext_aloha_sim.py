"""The small pi0.5 with a ConvNeXt of `transformers`, from scratch, on two CPU cores.

flux-data demo aloha-sim --episodes 50 --out demo_output/demonstrations
flux-train configs/pi05/pi05_small_convnext_aloha_sim.py demo_output/convnext
"""

from flux_train import recipes

model = recipes.small_pi05_model(
    action_horizon=32,
    vision_backbone=dict(
        type="TransformersVisionBackbone",
        config=dict(
            model_type="convnext",
            # A grid of 3 x 4 tokens: 4 pixels per patch, halved by each further stage.
            patch_size=4,
            num_stages=4,
            hidden_sizes=[32, 48, 64, 96],
            depths=[1, 1, 1, 1],
            # The blocks of a pretrained one start near zero.
            layer_scale_init_value=1.0,
        ),
        image_height=96,
        image_width=128,
    ),
)

train_dataloader = recipes.small_aloha_sim_data(
    data_root_path="demo_output/demonstrations",
    action_horizon=32,
    batch_size=8,
)

runner = recipes.small_runner(max_steps=4000)

inference = recipes.small_aloha_sim_inference(execution_horizon=16)
