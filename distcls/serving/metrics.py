"""Counts what a service does, for Prometheus to read at /metrics."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SEVERAL = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of prometheus_client: the folder in which several processes add up their numbers."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The numbers of one service."""

    def __init__(self) -> None:
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

    def text(self) -> bytes:
        """Return all numbers in Prometheus's format, of all processes."""
        registry = self.registry
        if SEVERAL in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)
