"""Writes files whole or not at all, and verifies them when they are read."""
