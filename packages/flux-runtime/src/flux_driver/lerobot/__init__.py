"""Robots of LeRobot, driven through its own classes for robots, motors and cameras.

Real LeRobot is imported when a driver is made, from the environment of the driver's interpreter;
`lerobot` without a dot in front is always that package, never this folder.
"""
