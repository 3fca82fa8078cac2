"""What a step does, as far as config and step decide it: which images it takes, and its random numbers."""
