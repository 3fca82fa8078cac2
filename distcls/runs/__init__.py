"""The run folder: its files, the state of its run, and the rules for resuming it."""
