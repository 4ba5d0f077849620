"""pi0.5 on LIBERO-90: every weight, from openpi's pi05_base.

bash scripts/train.sh configs/pi05/pi05_paligemma_libero_90_full_finetune.py work_dirs/90
"""

from flux_train import recipes

model = recipes.libero_model(
    "pi05",
    pretrained_name_or_path="checkpoints/pi05_base/model.safetensors",
)

train_dataloader = recipes.libero_data(
    "pi05",
    data_root_path="datasets/libero_90_no_noops_lerobotv2.1",
    tokenizer_path="checkpoints/pi05_base",
)

runner = recipes.libero_runner()

inference = recipes.libero_inference("pi05", suite="libero_90")
