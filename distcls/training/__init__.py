"""Training: the loop, its step, and all that they change."""
