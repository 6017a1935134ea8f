"""What Prometheus may ask of a server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

DURATION_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class ServerMetrics:
    """One set for each server, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dianjing_requests",
            "Requests by kind and end: done, failed, cancelled, refused.",
            ["kind", "end"],
            registry=self.registry,
        )
        self.queue_length = Gauge("dianjing_queue_length", "Requests that wait.", registry=self.registry)
        self.step_s = Histogram(
            "dianjing_step_seconds", "One denoising step.", ["kind"], buckets=DURATION_BUCKETS_S, registry=self.registry
        )
        self.wait_s = Histogram(
            "dianjing_wait_seconds",
            "From a request to its first step.",
            buckets=DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self.job_s = Histogram(
            "dianjing_job_seconds",
            "From the first step to the files.",
            ["kind"],
            buckets=DURATION_BUCKETS_S,
            registry=self.registry,
        )

    def to_prometheus_text(self) -> bytes:
        return generate_latest(self.registry)
