"""Scripted demonstrations in simulation: policies that read the simulator, and their recorders."""
