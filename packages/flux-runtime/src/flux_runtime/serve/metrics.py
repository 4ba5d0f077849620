"""Numbers for Prometheus, on a port of their own that only this machine reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flux_core.errors import MissingDependencyError, UsageError

METRICS_HOST = "127.0.0.1"
BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    *(0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
)
STAGES = ("queue", "decode", "encode", "infer", "send", "total")


class Metrics:
    """The counters of one server.

    Raises:
        MissingDependencyError: `prometheus-client` is not installed.
    """

    def __init__(self) -> None:
        prometheus = _prometheus()
        self.registry: Any = prometheus.CollectorRegistry()
        # The process's memory and processor time, where /proc has them.
        prometheus.ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Any:
            return prometheus.Counter(f"flux_serve_{name}", text, labels, registry=self.registry)

        stages = prometheus.Histogram(
            "flux_serve_stage_seconds",
            "time of the stages of requests that were answered with a chunk",
            ("stage",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._requests = counter("requests", "requests received", "protocol")
        self._answers = counter("answers", "requests answered with a chunk", "protocol")
        self._refusals = counter("refusals", "requests answered with a line", "kind")
        self._handshakes = counter("handshakes_refused", "connections never opened", "kind")
        self._cuts = counter("connections_cut", "connections that the server ended", "kind")
        self._opened = counter("connections_opened", "connections opened", "protocol")

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a number that is read when it is asked for."""
        gauge = _prometheus().Gauge(f"flux_serve_{name}", text, registry=self.registry)
        gauge.set_function(read)

    def opened(self, protocol: str) -> None:
        """Counts a connection."""
        self._opened.labels(protocol).inc()

    def request(self, protocol: str) -> None:
        """Counts a request."""
        self._requests.labels(protocol).inc()

    def answer(self, protocol: str, times_s: Mapping[str, float]) -> None:
        """Counts a request that was answered with a chunk, and the times of its stages."""
        self._answers.labels(protocol).inc()
        for stage, time_s in times_s.items():
            self._stages[stage].observe(time_s)

    def sent(self, time_s: float) -> None:
        """Counts the time that a chunk took to be handed to the network."""
        self._stages["send"].observe(time_s)

    def refusal(self, kind: str) -> None:
        """Counts a request that was answered with a line."""
        self._refusals.labels(kind).inc()

    def handshake_refused(self, kind: str) -> None:
        """Counts a connection that was never opened."""
        self._handshakes.labels(kind).inc()

    def cut(self, kind: str) -> None:
        """Counts a connection that the server ended."""
        self._cuts.labels(kind).inc()

    def publish(self, port: int) -> int:
        """Answers at http://127.0.0.1:PORT/metrics from a thread; returns the port.

        Args:
            port: 0 for any free one.

        Raises:
            UsageError: the port is in use.
        """
        try:
            server, _ = _prometheus().start_http_server(port, METRICS_HOST, self.registry)
        except OSError as error:
            raise UsageError(
                f"--metrics-port: expected a free port, got {port} ({error.strerror}). Name "
                f"another one, or 0 for no metrics"
            ) from error
        return int(server.server_port)


def _prometheus() -> Any:
    try:
        import prometheus_client
    except ImportError as error:
        raise MissingDependencyError(
            "metrics: expected prometheus-client, got none. Install it with: pip install "
            '"flux-runtime[serve]"'
        ) from error
    return prometheus_client
