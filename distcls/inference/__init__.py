"""Inference: the classifier, its evaluation, its metrics and its predictions."""
