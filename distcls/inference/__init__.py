"""A trained model at work: the classifier, its evaluation and its metrics."""
