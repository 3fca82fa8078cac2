"""Records a run's numbers: metrics.csv, which is the truth, and trackers such as TensorBoard, which copy it."""
