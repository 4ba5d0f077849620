"""A small pi0.5 for LIBERO-Object's ten tasks, on scripted demonstrations; for two CPU cores.

.venv-libero/bin/flux-data demo libero-object --no-antialiasing --episodes 8 --out data/libero
flux-data pack data/libero --size 96x96
flux-train configs/pi05/pi05_small_libero_object.py work_dirs/libero_object
flux-export work_dirs/libero_object/checkpoint_epoch_9.pt --out libero.bundle
.venv-libero/bin/flux-eval --suite libero-object --bundle libero.bundle --episodes 20
"""

from flux_train import recipes

model = recipes.small_pi05_model(action_horizon=16, robot=recipes.LIBERO_OBJECT)

train_dataloader = recipes.small_libero_object_data(
    data_root_path="data/libero",
    action_horizon=16,
    batch_size=8,
)

runner = recipes.small_runner(max_steps=9000)

inference = recipes.small_libero_object_inference(execution_horizon=8)
