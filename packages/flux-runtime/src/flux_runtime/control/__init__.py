"""Episodes: a robot, a policy and the C++ control loop."""
