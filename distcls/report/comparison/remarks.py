"""Says in sentences which differences between runs may be chance, so that nobody has to guess it from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from distcls.config.metrics import METRICS
from distcls.config.wording import count
from distcls.report.comparison.paired import LEVEL, Paired, holm, pair
from distcls.report.comparison.rows import Row, varied
from distcls.report.comparison.seeds import Difference, difference_of_means
from distcls.report.comparison.table import Table
from distcls.runs.overview import SPLITS

ABOUT_WEIGHTS = (
    "This is about these weights, on these images. Another seed gives other weights: to compare recipes, train each "
    "with several values of train.seed."
)


def remarks(table: Table) -> list[str]:
    """Return what can be said of the first run beside each other one, and of the first group beside each other one."""
    if table.is_one_group:
        return []
    finished = [row for row in table.rows if row.runs[0].is_finished]
    singles, groups = [row for row in finished if not row.is_group], [row for row in finished if row.is_group]
    return [*_paired(singles), *_of_groups(groups, table.metric)]


def _paired(rows: Sequence[Row]) -> list[str]:
    if len(rows) < 2:
        return []
    first, *others = rows
    found = [pair(first.runs[0], other.runs[0]) for other in others]
    tested = [one for one in found if isinstance(one, Paired)]
    p_values = iter(holm([one.p_value for one in tested]))
    sentences = [
        _about_pair(first.name, other.name, one, next(p_values), len(tested))
        if isinstance(one, Paired)
        else f"{other.name} cannot be compared with {first.name} image by image: {one}."
        for other, one in zip(others, found, strict=True)
    ]
    return [*sentences, ABOUT_WEIGHTS] if tested else sentences


def _about_pair(first: str, second: str, paired: Paired, p_value: float, num_tests: int) -> str:
    images = f"the same {count(paired.num_images, f'{paired.split} image')}"
    if paired.only_first == paired.only_second == 0:
        return f"{second} and {first} are right on exactly the same of {images}."
    flattering = ", which chose the weights of both" if paired.split == "val" else ""
    verdict = "may be chance" if p_value > LEVEL else "is more than chance"
    return (
        f"{second} beside {first}, on {images}{flattering}: right on {paired.only_second:,} that {first} gets wrong, "
        f"wrong on {paired.only_first:,} that it gets right. The difference in accuracy, {_points(paired.difference)} "
        f"(95 % interval {_points(paired.interval[0], '')} to {_points(paired.interval[1], '')}), {verdict} "
        f"(McNemar's exact test: {_p(p_value, num_tests)})."
    )


def _of_groups(rows: Sequence[Row], metric: str) -> list[str]:
    """Return a sentence for each group of runs beside the first one."""
    found = [(other, *means) for other in rows[1:] if (means := _means(rows[0], other, metric)) is not None]
    p_values = holm([difference.p_value for _, _, difference in found])
    return [
        _about_groups(rows[0], other, f"{split} {METRICS[metric].title}", difference, p_value, len(found))
        for (other, split, difference), p_value in zip(found, p_values, strict=True)
    ]


def _means(first: Row, second: Row, metric: str) -> tuple[str, Difference] | None:
    """Return the split, test or else val, on which two groups can be compared, and how their means differ there."""
    for split in reversed(SPLITS):
        values = [[run.metrics[split].get(metric) for run in row.runs] for row in (first, second)]
        numbers = [[value for value in of_row if value is not None] for of_row in values]
        found = difference_of_means(*numbers) if numbers == values else None
        if found is not None:
            return split, found
    return None


def _about_groups(first: Row, second: Row, metric: str, difference: Difference, p_value: float, num_tests: int) -> str:
    is_share = metric.endswith("accuracy") or metric.endswith("top-5")
    low, high = difference.interval
    texts = [_points(difference.value), _points(low, ""), _points(high, "")] if is_share else []
    middle, lowest, highest = texts or [f"{value:+.4f}" for value in (difference.value, low, high)]
    repeated = " and ".join(f"{word}s" for word in varied([*first.runs, *second.runs]))
    verdict = f"may be due to the {repeated}" if p_value > LEVEL else f"is more than the {repeated} explain"
    return (
        f"{second.name} beside {first.name}: the difference of the means in {metric}, {middle} (95 % interval {lowest} "
        f"to {highest}), {verdict} (Welch's t-test: {_p(p_value, num_tests)})."
    )


def _points(share: float, unit: str = " points") -> str:
    return f"{100 * share:+.2f}{unit}"


def _p(value: float, num_tests: int) -> str:
    adjusted = f" after Holm's correction for {num_tests} comparisons" if num_tests > 1 else ""
    return ("p < 0.001" if value < 0.001 else f"p = {value:.2g}") + adjusted
