"""Engines: the libraries that compute a bundle's graphs."""
