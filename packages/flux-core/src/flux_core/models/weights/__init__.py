"""Weights: checkpoints of other projects and our own, and LoRA adapters."""
