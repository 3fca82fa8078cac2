"""Several runs as one piece of work: cross-validation, and later searches."""
