"""Counts what a service does and what it answers, for Prometheus to read at /metrics."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from distcls.files.atomic import printable

SEVERAL = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of prometheus_client: the folder in which several processes add up their numbers."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """The numbers of one service."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = [printable(name) for name in class_names]
        disable_created_metrics()  # a second series for each
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "distcls_requests", "Requests answered.", ("route", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "distcls_request_seconds",
            "Seconds from a request's headers to its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "distcls_batch_size", "Images per forward pass.", buckets=SIZES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "distcls_batch_seconds", "Seconds per forward pass.", buckets=SECONDS, registry=self.registry
        )
        self.queue = Gauge(
            "distcls_queue_images",
            "Images that wait for their answer.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.refused = Counter(
            "distcls_images_refused", "Images that got no prediction.", ("status",), registry=self.registry
        )
        self.predictions = Counter(
            "distcls_predictions", "Images by the class that was predicted.", ("class",), registry=self.registry
        )
        self.confidence = Histogram(
            "distcls_confidence",
            "The probability of the predicted class.",
            buckets=CONFIDENCES,
            registry=self.registry,
        )
        self.model = Gauge(
            "distcls_model_info",
            "Always 1; the labels tell which weights answer.",
            ("weights_sha256", "temperature"),
            registry=self.registry,
            multiprocess_mode="max",
        )

    def predicted(self, probs: np.ndarray) -> None:
        """Count the predictions for a batch. probs: (n, C)."""
        counts = np.bincount(probs.argmax(1), minlength=len(self.class_names))
        for label in np.flatnonzero(counts):
            self.predictions.labels(self.class_names[label]).inc(int(counts[label]))
        for confidence in probs.max(1).tolist():
            self.confidence.observe(confidence)

    def text(self) -> bytes:
        """Return all numbers in Prometheus's format, of all processes."""
        registry = self.registry
        if SEVERAL in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)
