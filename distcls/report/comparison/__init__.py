"""Compares runs: what they were given, what came out, and how much of the difference may be chance."""
