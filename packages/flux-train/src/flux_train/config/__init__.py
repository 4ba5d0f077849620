"""The config of a training run, and its checks."""
