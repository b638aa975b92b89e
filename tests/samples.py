"""What a page of metrics says, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Name and labels → value."""


def read_samples(page: str) -> Samples:
    """Every sample of a page; no family and no sample may occur twice."""
    families = list(text_string_to_metric_families(page))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    samples = [sample for family in families for sample in family.samples]
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples
    }
    assert len(found) == len(samples)
    return found


def find(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of that name with these labels."""
    return sum(
        value
        for (found, pairs), value in samples.items()
        if found == name and labels.items() <= dict(pairs).items()
    )
