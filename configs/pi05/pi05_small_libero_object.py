"""A small pi0.5 for LIBERO-Object, on scripted demonstrations; trains in minutes on two CPU cores.

.venv-libero/bin/flux-data demo libero-object --task 0 --episodes 40 --out datasets/libero_scripted
flux-train configs/pi05/pi05_small_libero_object.py work_dirs/libero_scripted
"""

from flux_train import recipes

model = recipes.small_pi05_model(action_horizon=16, robot=recipes.LIBERO_OBJECT)

train_dataloader = recipes.small_libero_object_data(
    data_root_path="datasets/libero_scripted",
    action_horizon=16,
    batch_size=8,
)

runner = recipes.small_runner(max_steps=2400)

inference = recipes.small_libero_object_inference(execution_horizon=8)
