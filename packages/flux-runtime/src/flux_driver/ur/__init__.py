"""Universal Robots' arms: over RTDE, through `ur_rtde`, and over ROS."""
