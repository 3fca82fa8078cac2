"""`distcls push RUN`: puts a run's model on the Hugging Face Hub, with a card, and a page to try it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import TRUST, Parser, settings_of_moved
from distcls.hub.options import PushOptions, check_options
from distcls.runs.opening import opened_run


def main(argv: Sequence[str]) -> int:
    """Push a run. Exit code 70 if the folder does not give the run's answers, 66 if the Hub cannot be reached."""
    parser = Parser(
        prog="distcls push",
        description="Write a run's model as a folder for the Hugging Face Hub, RUN/hub/model, with a model card made "
        "from the run, and upload it. timm.create_model and transformers' pipeline load it where timm has the "
        "network; the folder is loaded again, and compared with the run, before anything is uploaded.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument(
        "--repo",
        metavar="NAME",
        help="the repository on the Hub, NAME or OWNER/NAME (default: the name of the run, under your account)",
    )
    parser.add_argument(
        "--space", action="store_true", help="also make a Gradio Space, RUN/hub/space, where people can try the model"
    )
    parser.add_argument("--private", action="store_true", help="if the repository is new, show it to nobody else")
    parser.add_argument("--license", metavar="ID", help="the model's license, as the Hub names it, such as apache-2.0")
    parser.add_argument("--dry-run", action="store_true", help="only write the folders: needs no network and no token")
    parser.add_argument("--data", metavar="DIR", help="where the run's images are now: --space is proven on them")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    words = parser.parse_intermixed_args(argv)
    run_dir = Path(words.run)
    repo = run_dir.resolve().name if words.repo is None else words.repo
    options = PushOptions(repo, words.space, words.dry_run, words.private, words.license)
    check_options(options)
    with opened_run(run_dir, ["model", "data"], settings_of_moved(words.data, run_dir), words.trust) as config:
        from distcls.hub.pushing import push_run

        push_run(run_dir, config, options)
    return 0
