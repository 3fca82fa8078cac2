"""distcls trains image classifiers; a run is a pure function of its config."""

__version__ = "0.1.0"
