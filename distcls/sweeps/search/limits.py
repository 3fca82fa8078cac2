"""Builds the network of a point before there is a trial, to refuse those that are too large or too slow."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from distcls.cluster.kernels import chosen_kernels
from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.data.decoding.decode import Decoding
from distcls.errors import DistclsError
from distcls.inference.classifier import Classifier
from distcls.inference.latency import measure_latency
from distcls.models.build import build_model
from distcls.models.layers import count_flops
from distcls.plan.randomness import global_state_kept
from distcls.report.model_summary import in_its_precision, task_of, without_weights
from distcls.sweeps.search.plan import Limits
from distcls.training.start.settling import settle

OF_NETWORKS = ("model.", "data.")
"""Prefixes of the settings that determine a network and its images."""

SECONDS = 0.3
"""How long to measure the latency of a network for."""


class Networks:
    """Measures the networks of configs for images of one kind."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._tasks: dict[str, tuple[int, int]] = {}
        self._chosen: dict[str, dict[str, Any]] = {}

    def refusal(self, config: Config) -> str | None:
        """Return why the network of a config is over a limit, such as "it has 1,234 parameters, more than 1,000"."""
        if not self.limits.given():
            return None
        try:
            config = self._settled(config)
            num_classes, image_size = self._task_of(config)
            with global_state_kept():
                network = build_model(without_weights(config.model), num_classes, image_size)
        except DistclsError as error:
            return str(error)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        if self.limits.parameters is not None and parameters > self.limits.parameters:
            return f"its network has {parameters:,} parameters, more than {self.limits.parameters:,}"
        flops = count_flops(network, image_size) if self.limits.flops is not None else 0
        if self.limits.flops is not None and flops > self.limits.flops:
            return f"its network takes {flops:,} FLOPs for an image, more than {self.limits.flops:,}"
        if self.limits.latency is None:
            return None
        with Processes(config.run.device) as processes, chosen_kernels(config.train, processes):
            names = [f"class {i}" for i in range(num_classes)]
            network.to(processes.device)
            config = in_its_precision(config, processes.device)
            classifier = Classifier(network, config, names, Decoding(image_size))
            seconds = measure_latency(classifier, [1], SECONDS)[1]
        if seconds is not None and seconds <= self.limits.latency:
            return None
        taken = "too long" if seconds is None else f"{seconds * 1000:.2f} ms"
        return f"its network takes {taken} for an image, more than {self.limits.latency * 1000:g} ms"

    def _settled(self, config: Config) -> Config:
        """Return the config with what a run would choose for it, such as the image size that its weights expect.

        The preset chooses no network here, because one is given (checking.py). It looks at the images, so it runs once
        per network, whatever the arguments.
        """
        network = dataclasses.replace(config.model, args={})
        given = sorted(path for path in config.given if path.startswith(OF_NETWORKS))
        key = repr((config.preset, network, config.data, given))
        if key not in self._chosen:
            # Timing steps to choose a precision would take seconds and change no size.
            chosen = settle(config.replaced({"train.precision": "float32"}), torch.device("cpu"), may_download=False)
            self._chosen[key] = {path: value for path, value in chosen.items() if path.startswith(OF_NETWORKS)}
        return config.replaced(self._chosen[key])

    def _task_of(self, config: Config) -> tuple[int, int]:
        """Return the number of classes and the image size of a config's data, which is opened once."""
        key = repr(config.data)
        if key not in self._tasks:
            self._tasks[key] = task_of(config, None, None, has_data=True)[:2]
        return self._tasks[key]
