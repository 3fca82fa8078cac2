"""Sweeps: several runs as one job, such as cross-validation."""
