"""A planar arm of three joints, as a package outside flux."""
