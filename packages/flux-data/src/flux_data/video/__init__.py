"""Video files: frames by time, and writing."""
