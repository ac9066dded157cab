"""From figures to the bytes of ``/metrics``: one registry a process, filled when it is scraped.

A source is a function that yields samples; it is called at every scrape, on the event loop, so it must only read what
is there. What a source no longer yields is gone from the next scrape: a partition that was handed on leaves no series.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from streams.observe.families import BUILD_INFO, Family
from streams.runtime.metrics import Buckets


class Distribution(NamedTuple):
    """Buckets beside their unit: ``per_unit`` of what they counted make one base unit (1000 for ms)."""

    buckets: Buckets
    per_unit: float = 1.0


class Sample(NamedTuple):
    """One figure; ``labels`` in the order of the family's."""

    family: Family
    value: float | Distribution
    labels: tuple[str, ...] = ()


Source = Callable[[], Iterable[Sample]]


def exposition(process: str, *sources: Source) -> Callable[[], tuple[bytes, str]]:
    """What serves ``/metrics`` of this process: body and content type. ``process``: worker, steward, mirror…"""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Sources((lambda: build_info(process), *sources)))
    return lambda: (generate_latest(registry), CONTENT_TYPE_LATEST)


def build_info(process: str) -> Iterator[Sample]:
    """What runs."""
    try:
        release = version("tidegate")
    except PackageNotFoundError:
        release = "sources"
    yield Sample(BUILD_INFO, 1, (process, release, platform.python_version()))


class _Sources(Collector):
    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterable[Metric]:
        """The samples of all sources, each family once."""
        families: dict[str, Metric] = {}
        for source in self._sources:
            for sample in source():
                metric = families.get(sample.family.name)
                if metric is None:
                    metric = families[sample.family.name] = _metric(sample.family)
                _add(metric, sample)
        return families.values()


def _metric(family: Family) -> Metric:
    match family.kind:
        case "counter":
            return CounterMetricFamily(family.name, family.help, labels=family.labels)
        case "gauge":
            return GaugeMetricFamily(family.name, family.help, labels=family.labels)
        case "histogram":
            return HistogramMetricFamily(family.name, family.help, labels=family.labels)


def _add(metric: Metric, sample: Sample) -> None:
    labels, value = list(sample.labels), sample.value
    if isinstance(metric, HistogramMetricFamily):
        if not isinstance(value, Distribution):
            raise TypeError(f"{sample.family.name} is a histogram, and got a number")
        bounds = [f"{bound / value.per_unit:g}" for bound in value.buckets.bounds] + ["+Inf"]
        counts = list(zip(bounds, accumulate(value.buckets.counts), strict=True))
        metric.add_metric(labels, counts, value.buckets.total / value.per_unit)
    elif isinstance(metric, CounterMetricFamily | GaugeMetricFamily):
        if isinstance(value, Distribution):
            raise TypeError(f"{sample.family.name} is no histogram, and got one")
        metric.add_metric(labels, value)
