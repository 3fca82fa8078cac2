"""Settings: which there are, how they are read and checked, and what is said of a mistake."""
