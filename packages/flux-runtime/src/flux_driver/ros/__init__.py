"""Robots behind ROS: the connection to ROS 1 or ROS 2, and the drivers that use it.

Nothing of ROS is imported before a driver connects.
"""
