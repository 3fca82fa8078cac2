"""From a split and a plan to batches on the device."""
