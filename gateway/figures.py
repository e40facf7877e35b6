"""Figures on their way to whoever asks: families of samples, joined over processes, as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, Self

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ledger.tally import Distribution

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
PREFIX: Final = "ledgerwire_"

Kind = Literal["gauge", "counter", "histogram"]


class Sample(Struct, frozen=True, array_like=True):
    """One figure; `suffix` is the part of its name behind that of its family."""

    suffix: str
    labels: dict[str, str]
    value: float


class Family(Struct, frozen=True, array_like=True):
    """Figures of one name."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[Sample]

    @classmethod
    def gauge(cls, name: str, help_: str, value: float | Mapping[str, float], label: str = "") -> Self:
        """What is, now; with `label` one for each of its values."""
        return cls(PREFIX + name, "gauge", help_, _samples("", value, label))

    @classmethod
    def counter(cls, name: str, help_: str, value: float | Mapping[str, float], label: str = "") -> Self:
        """What only grows; `name` has no `_total`."""
        return cls(PREFIX + name, "counter", help_, _samples("_total", value, label))

    @classmethod
    def histogram(cls, name: str, help_: str, distribution: Distribution) -> Self:
        """How figures were distributed."""
        samples, count = [], 0
        for bound, of_these in zip(
            (*map(str, map(float, distribution.bounds)), "+Inf"), distribution.counts, strict=True
        ):
            count += of_these
            samples.append(Sample("_bucket", {"le": bound}, count))
        samples += [Sample("_count", {}, count), Sample("_sum", {}, distribution.sum)]
        return cls(PREFIX + name, "histogram", help_, samples)

    def of(self, label: str, value: str) -> Self:
        """The same with one more label on each sample."""
        samples = [Sample(each.suffix, {label: value, **each.labels}, each.value) for each in self.samples]
        return type(self)(self.name, self.kind, self.help, samples)


def _samples(suffix: str, value: float | Mapping[str, float], label: str) -> list[Sample]:
    if isinstance(value, Mapping):
        return [Sample(suffix, {label: key}, float(each)) for key, each in value.items()]
    return [Sample(suffix, {}, float(value))]  # a bool is another thing on the wire


def joined(families: Iterable[Family]) -> list[Family]:
    """Families of one name as one, as the text format wants them."""
    found: dict[str, Family] = {}
    for family in families:
        known = found.get(family.name)
        samples = family.samples if known is None else [*known.samples, *family.samples]
        found[family.name] = Family(family.name, family.kind, family.help, samples)
    return list(found.values())


def text(families: Iterable[Family]) -> bytes:
    """The families in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(joined(families)))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for sample in family.samples:
                metric.add_sample(family.name + sample.suffix, sample.labels, sample.value)
            yield metric
