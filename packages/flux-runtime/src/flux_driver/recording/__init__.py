"""Hands what a robot's sensors deliver to a process that records it."""
