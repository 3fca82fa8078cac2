"""The learning rate as a pure function of the step: there is no scheduler to save or restore."""

from __future__ import annotations

import math

from distcls.config.durations import parse_duration, steps_at
from distcls.config.settings import OptimConfig
from distcls.plan.batches import BatchPlan


def lr_at(step: int, config: OptimConfig, plan: BatchPlan) -> float:
    """Return the learning rate of step 0, 1, 2 … Warmup is linear and reaches the peak at its last step."""
    if config.schedule == "one_cycle":
        return _one_cycle(step, config, plan)
    warmup = steps_at(parse_duration(config.warmup), plan)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "step":
        passed = sum(step >= steps_at(parse_duration(milestone), plan) for milestone in config.milestones)
        return config.lr * config.gamma**passed
    if config.schedule == "range_test":  # Smith, arXiv 1506.01186; exponential as in fastai
        progress = (step - warmup) / max(plan.total_steps - 1 - warmup, 1)
        return config.min_lr * (config.lr / config.min_lr) ** min(progress, 1.0)
    progress = (step - warmup) / max(plan.total_steps - warmup, 1)
    if config.schedule == "cosine":
        return _cosine(config.lr, config.min_lr, progress)
    if config.schedule == "linear":
        return config.lr + (config.min_lr - config.lr) * min(progress, 1.0)
    return config.lr


def _one_cycle(step: int, config: OptimConfig, plan: BatchPlan) -> float:
    """Rise to the peak along a cosine, during warmup or else 30 % of the run, then fall (Smith, arXiv 1708.07120)."""
    rise = steps_at(parse_duration(config.warmup), plan) or round(0.3 * plan.total_steps)
    if step < rise:
        return _cosine(config.lr, config.lr / 25, 1 - step / rise)
    return _cosine(config.lr, config.min_lr, (step - rise) / max(plan.total_steps - rise, 1))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
