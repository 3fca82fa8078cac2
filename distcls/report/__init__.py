"""The pictures of a run and of its data."""
