"""Changes training images at random, in whole batches or one by one."""
