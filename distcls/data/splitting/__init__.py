"""Cuts the splits that a data set does not have: stratified, in folds, or by whole groups of images."""
