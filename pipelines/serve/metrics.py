"""Prometheus metrics: of the HTTP side and of each replica, gathered on one page with a label for the process.

A process's series end with it, as those of a pod do; sums over ``process`` are what dashboards show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class EndpointMetrics:
    """What one HTTP process counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("longvu_requests", "Answered requests", ["model", "status"], registry=self.registry)
        self.seconds = Histogram(
            "longvu_request_seconds", "Time to the whole answer", ["model"], buckets=_SECONDS, registry=self.registry
        )
        self.first_token_seconds = Histogram(
            "longvu_first_token_seconds", "Time to the first words", ["model"], buckets=_SECONDS, registry=self.registry
        )
        self.tokens = Counter(
            "longvu_tokens", "Tokens of answers: visual, text, answer", ["model", "kind"], registry=self.registry
        )
        self.captions = Counter("longvu_captions", "Captions of scenes", ["model"], registry=self.registry)
        self.prefix_hits = Counter(
            "longvu_prefix_hits", "Requests that reused a video's keys and values", ["model"], registry=self.registry
        )
        self.disconnects = Counter(
            "longvu_disconnects", "Requests whose client left before the end", ["model"], registry=self.registry
        )
        self.dropped_traces = Counter(
            "longvu_dropped_traces", "Traces that found the buffer full", registry=self.registry
        )
        self.ongoing_tokens = Gauge(
            "longvu_ongoing_tokens", "Tokens of admitted requests", ["model"], registry=self.registry
        )


class ReplicaMetrics:
    """What one replica counts.

    Args:
        model: as requests call it.
        gauges: name, meaning and how to read it.
    """

    def __init__(self, model: str, gauges: Iterable[tuple[str, str, Callable[[], float]]]):
        self.registry = CollectorRegistry()
        self._media = Counter(
            "longvu_media", "Media used, by where their features came from", ["model", "source"], registry=self.registry
        )
        self._model = model
        self.decodes = self._counter("longvu_decodes", "Media given to a decoder")
        self.encodes = self._counter("longvu_encodes", "Media given to the vision towers")
        self.cancelled = self._counter("longvu_cancelled", "Answers given up because the client left")
        self.cancelled_tokens = self._counter("longvu_cancelled_tokens", "Tokens that those had by then")
        for name, meaning, read in gauges:
            gauge = Gauge(name, meaning, ["model"], registry=self.registry)
            gauge.labels(model).set_function(read)

    def media(self, source: Literal["decoded", "cache", "store"]) -> None:
        """A medium was used."""
        self._media.labels(self._model, source).inc()

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, ["model"], registry=self.registry).labels(self._model)


def collected(registry: CollectorRegistry, process: str) -> list[Metric]:
    """The metrics of a process, labelled with its name; they pickle."""
    metrics = list(registry.collect())
    for metric in metrics:
        metric.samples = [sample._replace(labels={**sample.labels, "process": process}) for sample in metric.samples]
    return metrics


def page(metrics: Iterable[Metric]) -> bytes:
    """Prometheus's text format of the metrics of many processes."""
    merged: dict[str, Metric] = {}
    for metric in metrics:
        if metric.name in merged:
            merged[metric.name].samples.extend(metric.samples)
        else:
            merged[metric.name] = metric
    registry = CollectorRegistry()
    registry.register(_Given(merged.values()))
    return generate_latest(registry)


class _Given:
    def __init__(self, metrics: Iterable[Metric]):
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics
