"""What the networks are built from: projectors, norms, attention, image encoders."""
