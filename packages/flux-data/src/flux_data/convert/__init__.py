"""LeRobot to LeRobot: versions, merge, split; and ALOHA's HDF5 to LeRobot."""
