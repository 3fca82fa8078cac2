"""Searches for good settings: many ordinary runs, and one process that decides which come next."""
