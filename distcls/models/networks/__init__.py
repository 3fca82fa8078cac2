"""The networks that are built in."""
