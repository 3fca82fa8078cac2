"""Where the numbers of a run go: metrics.csv, which is the truth, and trackers such as TensorBoard, which copy it."""
