"""Files of weights that others wrote: their names for tensors, and the models that they fit."""
