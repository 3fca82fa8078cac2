"""What a trained model gets right and wrong, for people to look at."""
