"""How often intervals of paired differences cover the truth, with the current method and others.

`python -m benchmarks.interval_coverage` (about a minute on an idle machine) draws differences with
a known mean, of the kinds that prompts give: skewed, mostly zero, shares of five samples, flags,
unbounded values. For each number of prompts it counts how many 95 % intervals contain that mean.
The interval that Excise uses is compared with the percentile bootstrap, which it used before, with
Student's t and, for ten prompts, with SciPy's BCa, which is slow. The numbers in brackets are the
intervals' mean widths relative to Student's t.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from workers.measuring.statistics import (
    SHARE_CHANGE,
    UNBOUNDED,
    Bounds,
    compute_paired_interval,
)

COUNTS = (10, 15, 20, 48, 100)
RESAMPLES = 1000
MOST_TRIALS = {"percentile (before)": 300, "BCa": 100}
"""Resampling is slow, so it is tried on fewer samples: ± 1.3 and ± 2.2 points at 95 %."""

Generator = np.random.Generator
Values = np.ndarray


@dataclass(frozen=True)
class Case:
    """A distribution of differences."""

    name: str
    draw: Callable[[Generator, tuple[int, int]], Values]
    mean: float
    bounds: Bounds = SHARE_CHANGE


def _share_of_five(before: float, after: float) -> Callable[[Generator, tuple[int, int]], Values]:
    """Shares of five samples that show a behaviour, likelier for some prompts than for others."""

    def draw(generator: Generator, shape: tuple[int, int]) -> Values:
        own = generator.beta(1.2, 1.2, shape)
        old = generator.binomial(5, np.minimum(1, 2 * before * own))
        new = generator.binomial(5, np.minimum(1, 2 * after * own))
        return (new - old) / 5

    return draw


def _sparse(share: float) -> Callable[[Generator, tuple[int, int]], Values]:
    """Most responses unchanged, a few much better: a mean of 0.4 among those with any change."""
    return lambda g, shape: (g.random(shape) < share) * g.beta(2, 3, shape)


def _flags(gained: float, lost: float) -> Callable[[Generator, tuple[int, int]], Values]:
    """One response per prompt, which shows the behaviour or not."""

    def draw(generator: Generator, shape: tuple[int, int]) -> Values:
        chance = generator.random(shape)
        return np.where(chance < gained, 1.0, np.where(chance < gained + lost, -1.0, 0.0))

    return draw


CASES = (
    Case("normal", lambda g, s: g.normal(0.1, 0.2, s).clip(-1, 1), 0.1),
    Case("gains, skewed", lambda g, s: g.beta(1, 4, s), 0.2),
    Case(
        "gains, some losses",
        lambda g, s: np.where(g.random(s) < 0.1, -0.8, 1.0) * g.beta(3, 9, s),
        0.25 * (0.9 - 0.08),
    ),
    Case("70 % zeros", _sparse(0.3), 0.3 * 0.4),
    Case("85 % zeros", _sparse(0.15), 0.15 * 0.4),
    Case("shares of five", _share_of_five(0.5, 0.15), 0.15 - 0.5),
    Case("rare shares of five", _share_of_five(0.08, 0.03), 0.03 - 0.08),
    Case("flags, 30 % fall", _flags(0, 0.3), -0.3),
    Case("flags, 90 % fall", _flags(0, 0.9), -0.9),
    Case("flags, both ways", _flags(0.1, 0.05), 0.05),
    Case("small and even", lambda g, s: g.normal(0.02, 0.03, s), 0.02),
    Case("nats, lognormal", lambda g, s: g.lognormal(-4, 0.8, s), np.exp(-4 + 0.32), UNBOUNDED),
    Case("nats, normal", lambda g, s: g.normal(0.02, 0.3, s), 0.02, UNBOUNDED),
    Case(
        "nats, 70 % zeros", lambda g, s: g.exponential(1, s) * (g.random(s) < 0.3), 0.3, UNBOUNDED
    ),
)

Method = Callable[[Values, Generator, Bounds], tuple[float, float]]


def bound_by_likelihood(
    values: Values, _generator: Generator, bounds: Bounds
) -> tuple[float, float]:
    """Return Excise's interval, which needs no resampling."""
    return compute_paired_interval(values.tolist(), bounds)


def bound_by_percentiles(
    values: Values, generator: Generator, _bounds: Bounds
) -> tuple[float, float]:
    """Return the interval of the percentile bootstrap (Efron & Tibshirani 1993, ch. 13).

    Excise used it before.
    """
    drawn = generator.integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def bound_by_t(values: Values, _generator: Generator, _bounds: Bounds) -> tuple[float, float]:
    """Return Student's t interval."""
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - reach), float(values.mean() + reach)


def bound_by_bca(values: Values, generator: Generator, _bounds: Bounds) -> tuple[float, float]:
    """Return the interval of SciPy's BCa bootstrap; if all values are equal, just the point."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=generator
    ).confidence_interval
    return float(found.low), float(found.high)


METHODS: dict[str, Method] = {
    "Excise": bound_by_likelihood,
    "percentile (before)": bound_by_percentiles,
    "t": bound_by_t,
    "BCa": bound_by_bca,
}


def measure_coverage(
    case: Case, count: int, method: Method, trials: int, seed: int
) -> tuple[float, float]:
    """Return the share of samples whose interval holds the mean, and the mean width."""
    generator = np.random.default_rng([seed, count])
    samples = case.draw(generator, (trials, count))
    ends = np.array([method(values, generator, case.bounds) for values in samples])
    is_held = (ends[:, 0] <= case.mean + 1e-12) & (case.mean - 1e-12 <= ends[:, 1])
    return float(is_held.mean()), float((ends[:, 1] - ends[:, 0]).mean())


def print_table(count: int, trials: int, seed: int) -> None:
    """Print the coverage of every case by every method, in per cent, as a Markdown table."""
    methods = {
        name: method for name, method in METHODS.items() if name != "BCa" or count == COUNTS[0]
    }
    print(f"\n{count} prompts\n")
    print(f"| differences | {' | '.join(methods)} |")
    print(f"|:--|{'--:|' * len(methods)}")
    for case in CASES:
        rows = {
            name: measure_coverage(
                case, count, method, min(trials, MOST_TRIALS.get(name, trials)), seed
            )
            for name, method in methods.items()
        }
        usual = rows["t"][1]
        cells = (f"{100 * held:.1f} [{width / usual:.2f}]" for held, width in rows.values())
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="samples a case")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", stats.DegenerateDataWarning)
    for count in COUNTS:
        print_table(count, options.trials, options.seed)


if __name__ == "__main__":
    main()
