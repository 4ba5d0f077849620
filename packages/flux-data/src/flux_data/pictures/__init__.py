"""One picture of a dataset: the one that belongs to a row, and images that are stored as files."""
