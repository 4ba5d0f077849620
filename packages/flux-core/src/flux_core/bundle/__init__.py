"""The bundle: what training hands to the robot, and the checks that it passes before it is used."""
