"""Export: a run's classifier as one file for other programs, proven to give the same answers."""
