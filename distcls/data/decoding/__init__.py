"""Turns image files into pixels."""
