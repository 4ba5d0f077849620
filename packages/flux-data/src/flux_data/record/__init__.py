"""Records a LeRobot dataset of a run while it goes on, in a process of its own."""
