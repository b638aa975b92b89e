"""A slice that seems to lose too much is measured on more items, unless its loss is no chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tests.tiny import MODULES, select_neurons
from tests.unit.workers.correction.bench_cases import LOOP
from tests.unit.workers.kinds.correction.correction_inputs import FakeInputs, build_slice
from workers.abilities.state import SliceFigures
from workers.correction import slice_bench
from workers.correction.budget import Budget
from workers.correction.results import ProtectedSlice, SliceDamage
from workers.correction.slice_bench import MOST_BY_CHANCE, MOST_SLICES, SliceBench
from workers.models.loaded import LoadedModel
from workers.progress import ignore
from workers.pruning.components import pruned

CHOSEN = select_neurons({MODULES[0]: list(range(20))})
NAMES = tuple(f"slice_{number}" for number in range(MOST_SLICES + 1))


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return FakeInputs((LOOP,)).base


def build(name: str, more: int = 6) -> ProtectedSlice:
    own = build_slice(name, tune=3, seed=40 + NAMES.index(name))
    further = build_slice(name, tune=more, seed=70 + NAMES.index(name)).tune
    return own.model_copy(update={"tune_more": further})


def measure(
    base: LoadedModel, *slices: ProtectedSlice, use: float, other: float = 0.1
) -> dict[str, SliceDamage]:
    """What pruning costs, where the first items of `NAMES[0]` use so much of its limit.

    `other` is used of the other slices' limits.
    """
    limits = {}
    for own in slices:
        share = use if own.name == NAMES[0] else other
        loss = lose(base, own.model_copy(update={"tune_more": ()}))
        limits[own.name] = allow(abs(loss.nats_rise) / share)
    return compare(build_bench(base, slices, limits), base)


def allow(nats: float) -> SliceDamage:
    """A limit on the mean rise alone."""
    return SliceDamage(nats_rise=nats, accuracy_fall=9.0, nats_margin=9.0)


def build_bench(
    base: LoadedModel, slices: Sequence[ProtectedSlice], limits: Mapping[str, SliceDamage]
) -> SliceBench:
    return SliceBench(base, slices, Budget(1.0, 1.0, limits), ignore)


def compare(bench: SliceBench, base: LoadedModel) -> dict[str, SliceDamage]:
    assert bench.before
    with pruned(base.model, CHOSEN):
        found = bench.read()
    return bench.compare(found)


def lose(base: LoadedModel, own: ProtectedSlice) -> SliceDamage:
    """The loss on all of the slice's items, measured at once."""
    whole = own.model_copy(update={"tune": (*own.tune, *own.tune_more), "tune_more": ()})
    limits = {own.name: SliceDamage(nats_rise=1.0, accuracy_fall=1.0)}
    return compare(build_bench(base, (whole,), limits), base)[own.name]


def of_first(base: LoadedModel, own: ProtectedSlice) -> SliceDamage:
    return lose(base, own.model_copy(update={"tune_more": ()}))


def is_close(one: SliceDamage, other: SliceDamage) -> bool:
    return list(one.model_dump().values()) == pytest.approx(list(other.model_dump().values()), 1e-4)


@pytest.mark.parametrize(
    ("use", "is_widened"), [(0.9, False), (1.1, True), (2.5, True), (MOST_BY_CHANCE + 0.1, False)]
)
def test_only_a_loss_that_may_be_chance_is_measured_on_more_items(
    base: LoadedModel, use: float, is_widened: bool
) -> None:
    own, other = build(NAMES[0]), build(NAMES[1])
    first, whole = of_first(base, own), lose(base, own)
    assert first.nats_rise > 0.01
    assert not is_close(first, whole)
    found = measure(base, own, other, use=use)
    assert is_close(found[NAMES[0]], whole if is_widened else first)
    assert is_close(found[NAMES[1]], of_first(base, other))


def test_a_slice_that_has_no_more_items_keeps_its_figures(base: LoadedModel) -> None:
    own = build(NAMES[0], more=0)
    assert is_close(measure(base, own, use=2.0)[NAMES[0]], of_first(base, own))


def test_where_many_seem_lost_or_one_certainly_is_nothing_is_measured_again(
    base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = [build(name) for name in NAMES]
    asked: list[list[str]] = []
    measure_probes = slice_bench.measure_probes

    def watch(base: LoadedModel, probes, advance) -> dict[str, SliceFigures]:
        asked.append(list(probes))
        return measure_probes(base, probes, advance)

    monkeypatch.setattr(slice_bench, "measure_probes", watch)
    losing = [own for own in slices if of_first(base, own).nats_rise > 0]
    assert len(losing) > 2
    limits = {own.name: allow(of_first(base, own).nats_rise / 2) for own in losing}
    bench = build_bench(base, losing, limits)
    asked.clear()
    monkeypatch.setattr(slice_bench, "MOST_SLICES", len(losing))
    compare(bench, base)
    names = [own.name for own in losing]
    assert asked == [names] * 4  # base, pruned, and both again on further items
    compare(bench, base)
    assert asked[4:] == [names] * 2  # the base is not measured again

    monkeypatch.setattr(slice_bench, "MOST_SLICES", len(losing) - 1)
    compare(bench, base)
    assert asked[6:] == [names]
    monkeypatch.setattr(slice_bench, "MOST_SLICES", len(losing))
    monkeypatch.setattr(slice_bench, "MOST_BY_CHANCE", 1.5)
    compare(bench, base)
    assert asked[7:] == [names]
