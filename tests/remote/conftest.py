"""Tests of a policy that runs on another computer than its robot, from one process to the other."""
