"""A fake controller of a Universal Robots arm, and runs against it."""
