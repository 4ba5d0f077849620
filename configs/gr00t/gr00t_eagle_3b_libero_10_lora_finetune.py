"""GR00T-N1.5 on LIBERO-10: adapters of mixer and DiT, and the embodiment's encoders and decoder.

bash scripts/train.sh configs/gr00t/gr00t_eagle_3b_libero_10_lora_finetune.py work_dirs/lora
"""

from flux_train import recipes

model = recipes.libero_model(
    "gr00t",
    pretrained_name_or_path="checkpoints/GR00T-N1.5-3B",
    **recipes.gr00t_lora(rank=16, alpha=16),
)

train_dataloader = recipes.libero_data(
    "gr00t",
    data_root_path="datasets/libero_10_no_noops_lerobotv2.1",
    tokenizer_path="checkpoints/eagle2_hg_model",
)

runner = recipes.lora_runner(max_epochs=18, learning_rate=1e-4, warmup_ratio=0.05)

inference = recipes.libero_inference("gr00t", suite="libero_10")
