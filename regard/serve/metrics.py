"""What is counted, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One service's own numbers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names = ["path", "status"]
        self._requests = Counter("regard_requests", "Requests answered", names, registry=self._registry)
        self._seconds = Histogram("regard_seconds", "Time to the end of an answer", ["path"], registry=self._registry)
        self._batch = Histogram(
            "regard_batch_texts", "Texts answered together", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry
        )

    def watch(self, name: str, told: str, value: Callable[[], float]) -> None:
        """A number that is asked for when somebody looks."""
        Gauge(name, told, registry=self._registry).set_function(value)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request came to its end."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batched(self, texts: int) -> None:
        """So many texts were answered together."""
        self._batch.observe(texts)

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self._registry)
