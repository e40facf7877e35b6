"""Figures on their way to Prometheus: joined over processes, and text that its own parser reads."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.figures import Family, joined, text
from ledger.tally import Distribution


def read(families: list[Family]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Each sample of the text by name and labels, as a scraper reads it."""
    found = text_string_to_metric_families(text(families).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value for each in found for sample in each.samples
    }


def test_a_distribution_counts_up_to_its_bounds() -> None:
    """A figure counts for the first bound that it does not exceed; beyond the last one there is one more."""
    distribution = Distribution((1, 5, 10))
    for figure in (0, 1, 1.5, 5, 10, 11, 1_000):
        distribution.note(figure)
    assert distribution.counts == [2, 2, 1, 2]
    assert distribution.sum == pytest.approx(1_028.5)


def test_families_become_text() -> None:
    """Gauges as they are, counters with `_total`, histograms cumulated; each with its help."""
    distribution = Distribution((0.5, 1))
    for figure in (0.1, 0.7, 3):
        distribution.note(figure)
    families = [
        Family.gauge("topics", "Tasks.", 3),
        Family.counter("refused", "By code.", {"busy": 2, 'a "b"': 1}, "code"),
        Family.histogram("commit_seconds", "Time.", distribution),
    ]
    assert read(families) == {
        ("ledgerwire_topics", ()): 3,
        ("ledgerwire_refused_total", (("code", "busy"),)): 2,
        ("ledgerwire_refused_total", (("code", 'a "b"'),)): 1,
        ("ledgerwire_commit_seconds_bucket", (("le", "0.5"),)): 1,
        ("ledgerwire_commit_seconds_bucket", (("le", "1.0"),)): 2,
        ("ledgerwire_commit_seconds_bucket", (("le", "+Inf"),)): 3,
        ("ledgerwire_commit_seconds_count", ()): 3,
        ("ledgerwire_commit_seconds_sum", ()): 3.8,
    }
    assert b"# HELP ledgerwire_refused_total By code." in text(families)


def test_processes_are_told_apart_within_one_family() -> None:
    """They may come over a wire; each name appears once, with all samples."""
    here, there = Family.counter("deliveries", "All.", 5), Family.counter("deliveries", "All.", 7)
    sent = msgspec.json.decode(
        msgspec.json.encode([there, Family.gauge("draining", "Is it?", True)]), type=list[Family]
    )
    families = joined([here.of("process", "1"), *(family.of("process", "2") for family in sent)])
    assert [family.name for family in families] == ["ledgerwire_deliveries", "ledgerwire_draining"]
    assert read(families) == {
        ("ledgerwire_draining", (("process", "2"),)): 1,
        ("ledgerwire_deliveries_total", (("process", "1"),)): 5,
        ("ledgerwire_deliveries_total", (("process", "2"),)): 7,
    }
