"""How weights follow gradients: losses, optimizers, schedules, averages."""
