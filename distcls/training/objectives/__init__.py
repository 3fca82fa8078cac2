"""What a training step minimises: one file for each objective, and `build.py` that lists them."""
