"""Parquet files: columns as arrays, row groups, and single stored images."""
