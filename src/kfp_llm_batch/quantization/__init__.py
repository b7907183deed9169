"""A smaller checkpoint from a plain one, and what the rounding costs."""
