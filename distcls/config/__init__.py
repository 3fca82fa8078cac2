"""Defines, reads and checks all settings, and explains mistakes in them."""
