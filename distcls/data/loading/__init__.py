"""Turns a split and a plan into batches on the device."""
