"""Says in sentences which differences between runs may be chance, so that nobody has to guess it from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from distcls.config.metrics import METRICS
from distcls.config.wording import count
from distcls.report.comparison.paired import LEVEL, Paired, holm, pair
from distcls.report.comparison.rows import Row
from distcls.report.comparison.seeds import difference_of_means
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
    return [*_paired(singles), *_of_seeds(groups, table.metric)]


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
    adjusted = f" after Holm's correction for {num_tests} comparisons" if num_tests > 1 else ""
    verdict = "may be chance" if p_value > LEVEL else "is more than chance"
    return (
        f"{second} beside {first}, on {images}{flattering}: right on {paired.only_second:,} that {first} gets wrong, "
        f"wrong on {paired.only_first:,} that it gets right. The difference in accuracy, {_points(paired.difference)} "
        f"(95 % interval {_points(paired.interval[0], '')} to {_points(paired.interval[1], '')}), {verdict} "
        f"(McNemar's exact test: p {_p(p_value)}{adjusted})."
    )


def _of_seeds(rows: Sequence[Row], metric: str) -> list[str]:
    """Return a sentence for each group of runs beside the first one."""
    sentences = []
    for other in rows[1:]:
        for split in reversed(SPLITS):
            values = [[run.metrics[split].get(metric) for run in row.runs] for row in (rows[0], other)]
            numbers = [[value for value in of_row if value is not None] for of_row in values]
            found = difference_of_means(*numbers) if numbers == values else None
            if found is not None:
                sentences.append(_about_groups(rows[0].name, other.name, f"{split} {METRICS[metric].title}", *found))
                break
    return sentences


def _about_groups(first: str, second: str, metric: str, difference: float, low: float, high: float) -> str:
    is_share = metric.endswith("accuracy") or metric.endswith("top-5")
    texts = [_points(difference), _points(low, ""), _points(high, "")] if is_share else []
    middle, lowest, highest = texts or [f"{value:+.4f}" for value in (difference, low, high)]
    verdict = "may be due to the seeds" if low <= 0 <= high else "is more than the seeds explain"
    return (
        f"{second} beside {first}: the difference of the means in {metric}, {middle} (95 % interval {lowest} to "
        f"{highest}), {verdict} (Welch's t-test)."
    )


def _points(share: float, unit: str = " points") -> str:
    return f"{100 * share:+.2f}{unit}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"
