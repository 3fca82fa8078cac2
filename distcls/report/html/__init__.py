"""Web pages: one self-contained file each, which opens from disk and asks the network for nothing."""
