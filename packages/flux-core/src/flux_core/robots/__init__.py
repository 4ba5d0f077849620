"""Robots as policies see them: joints, limits, cameras, units."""
