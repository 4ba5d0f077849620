"""Scripted demonstrations in simulation: a policy that reads the simulator, and its recorder."""
