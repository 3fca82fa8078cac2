"""Turns gradients into weights: losses, optimizers, schedules and averages."""
