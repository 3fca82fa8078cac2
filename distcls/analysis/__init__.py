"""What a trained model gets right and wrong, and what its data looks like, for people to look at."""
