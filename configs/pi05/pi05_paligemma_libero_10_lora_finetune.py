"""pi0.5 on LIBERO-10: LoRA adapters and the action projections, from openpi's pi05_base.

bash scripts/train.sh configs/pi05/pi05_paligemma_libero_10_lora_finetune.py work_dirs/lora
"""

from flux_train import recipes

model = recipes.libero_model(
    "pi05",
    pretrained_name_or_path="checkpoints/pi05_base/model.safetensors",
    **recipes.lora(
        rank=256,
        alpha=512,
        modules_to_save=("action_in_proj", "action_out_proj", "time_mlp_in", "time_mlp_out"),
    ),
)

train_dataloader = recipes.libero_data(
    "pi05",
    data_root_path="datasets/libero_10_no_noops_lerobotv2.1",
    tokenizer_path="checkpoints/pi05_base",
)

runner = recipes.lora_runner(max_epochs=24, learning_rate=5e-4, warmup_ratio=0.03)

inference = recipes.libero_inference("pi05", suite="libero_10")
