"""A step as config and step number decide it: which images it takes, and its random numbers."""
