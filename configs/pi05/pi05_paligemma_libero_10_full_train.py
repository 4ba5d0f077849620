"""pi0.5 on LIBERO-10 from scratch: PaliGemma's weights, but no robot pretraining.

The action expert starts from random numbers; with `--cfg-options
model.pretrained_name_or_path=none` the vision-language model does too.

bash scripts/train.sh configs/pi05/pi05_paligemma_libero_10_full_train.py work_dirs/scratch
"""

from flux_train import recipes

model = recipes.libero_model(
    "pi05",
    pretrained_name_or_path="checkpoints/paligemma-3b-pt-224",
)

train_dataloader = recipes.libero_data(
    "pi05",
    data_root_path="datasets/libero_10_no_noops_lerobotv2.1",
    tokenizer_path="checkpoints/paligemma-3b-pt-224",
)

runner = recipes.libero_runner()

inference = recipes.libero_inference("pi05", suite="libero_10")
