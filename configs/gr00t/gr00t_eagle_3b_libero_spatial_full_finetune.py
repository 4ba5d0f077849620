"""GR00T-N1.5 on LIBERO-Spatial: every weight, from NVIDIA's GR00T-N1.5-3B.

bash scripts/train.sh configs/gr00t/gr00t_eagle_3b_libero_spatial_full_finetune.py work_dirs/spatial
"""

from flux_train import recipes

model = recipes.libero_model("gr00t", pretrained_name_or_path="checkpoints/GR00T-N1.5-3B")

train_dataloader = recipes.libero_data(
    "gr00t",
    data_root_path="datasets/libero_spatial_no_noops_lerobotv2.1",
    tokenizer_path="checkpoints/eagle2_hg_model",
)

runner = recipes.libero_runner(max_epochs=18, learning_rate=1.5e-5)

inference = recipes.libero_inference("gr00t", suite="libero_spatial")
