"""`distcls push`: writes a run's model, and a Space to try it, as folders for the Hub, and uploads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from distcls.config.settings import Config
from distcls.config.wording import count
from distcls.files.atomic import folder_beside, naming_disk_errors, put_in_place
from distcls.hub.card import write_card
from distcls.hub.hub_api import Hub, Kind, check_repo
from distcls.hub.model_folder import write_model_folder
from distcls.hub.options import OWNER, PushOptions, model_folder, space_folder
from distcls.hub.space import write_space_folder
from distcls.models.init_from import find_weights
from distcls.report.run_page.facts import read_run
from distcls.runs.status import warn_if_unfinished

LOADERS = {
    "timm": "timm, transformers and distcls load it",
    "torchvision": "torchvision and distcls load it; timm and transformers cannot",
    "distcls": "distcls loads it; timm and transformers cannot",
    "code": "distcls loads it, where your module can be imported",
}
"""Who can use the folder, by Written.loads_with."""


def push_run(run_dir: Path, config: Config, options: PushOptions) -> None:
    """Write RUN/hub/model and RUN/hub/space, print what is in them, and upload them unless it is a dry run.

    The repositories are made first: a missing permission shows before anything slow begins.

    config: the run's, with where its images are now. Raises InexactExportError if a folder does not give the run's
    answers, MissingInputError if the Hub cannot be reached or refuses, UsageError for a name that it does not take.
    """
    check_repo(options.repo)
    hub = None if options.dry_run else Hub()
    if "/" not in options.repo:
        options = dataclasses.replace(options, repo=f"{hub.user if hub else OWNER}/{options.repo}")
    warn_if_unfinished(run_dir)
    find_weights(run_dir)  # or a run that has none would leave empty repositories
    kinds: list[Kind] = ["model", "space"] if options.space else ["model"]
    urls: dict[Kind, str] = {}
    if hub is not None:
        urls = {kind: hub.make(options.repo, kind, options.private) for kind in kinds}
    _write(model_folder(run_dir), lambda folder: _write_model(folder, run_dir, config, options))
    if options.space:
        _write(space_folder(run_dir), lambda folder: write_space_folder(folder, run_dir, config, options))
    if hub is None:
        return
    for kind, url in urls.items():
        hub.upload(model_folder(run_dir) if kind == "model" else space_folder(run_dir), options.repo, kind)
        print(url)


def _write_model(folder: Path, run_dir: Path, config: Config, options: PushOptions) -> None:
    written = write_model_folder(folder, run_dir, config)
    write_card(folder, read_run(run_dir).of_current_weights(), config, options, written)
    print(
        f"{LOADERS[written.loads_with]}: probabilities differ by at most {written.largest_difference:.2g} "
        f"on {count(written.num_proven, 'image')}"
    )


def _write(final: Path, write: Callable[[Path], None]) -> None:
    """Have a folder written, and give it its name when it is whole."""
    with naming_disk_errors(final):
        final.parent.mkdir(exist_ok=True)
        with folder_beside(final) as folder:
            write(folder)
            put_in_place(folder, final)
    size = sum(file.stat().st_size for file in final.iterdir())
    print(f"{final}  {size / 1e6:,.2f} MB")
