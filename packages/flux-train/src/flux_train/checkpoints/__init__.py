"""Checkpoints of a training run: files, shards, and which one a run resumes from."""
