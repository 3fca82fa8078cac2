"""Plans each step from the config and its number alone: its images and its random numbers."""
