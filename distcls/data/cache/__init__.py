"""Decoded images, kept on disk and in memory."""
