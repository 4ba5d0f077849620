"""Runs a robot's driver in a process of its own, beside the process of the policy.

Works in any Python from 3.8 on, with numpy and nothing else, because a robot's environment has an
interpreter and pins of its own. It imports nothing of flux; see docs/your-own-robot.md.
"""
