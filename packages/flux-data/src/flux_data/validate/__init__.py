"""Finds what is wrong with a dataset."""
