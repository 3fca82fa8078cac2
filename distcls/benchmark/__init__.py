"""How fast a config trains on this machine, measured in the loop that users run."""
