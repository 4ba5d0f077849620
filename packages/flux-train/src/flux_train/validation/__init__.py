"""Held-out validation."""
