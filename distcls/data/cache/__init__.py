"""Keeps decoded images on disk and in memory."""
