"""What a bundle takes from a checkpoint: the robot's section, and classes of the user's own."""
