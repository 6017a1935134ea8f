"""Metrics of a server for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

DURATION_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class ServerMetrics:
    """Counters of one server in a registry of its own, so that two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"buckets": DURATION_BUCKETS_S, "registry": self.registry}
        self.requests = Counter(
            "dianjing_requests",
            "Requests by kind and end: done, failed, cancelled, refused.",
            ["kind", "end"],
            registry=self.registry,
        )
        self.queue_length = Gauge("dianjing_queue_length", "Requests in the queue.", registry=self.registry)
        self.step_s = Histogram("dianjing_step_seconds", "One denoising step.", ["kind"], **options)
        self.wait_s = Histogram("dianjing_wait_seconds", "From a request to its first step.", **options)
        self.job_s = Histogram("dianjing_job_seconds", "From the first step to the files.", ["kind"], **options)

    def to_prometheus_text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
