"""Audit: wrong labels and near-duplicate images, found with the predictions of runs that did not train on them."""
