"""What changes training images at random, whole batches at a time or one by one."""
