"""Training samples: windows of actions, frames, mixtures, batches."""
