"""Uploads folders to the Hugging Face Hub, or to a server of its kind (HF_ENDPOINT), with waits that end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, get_session, set_client_factory, validate_repo_id

from distcls import __version__
from distcls.errors import MissingInputError, UsageError

Kind = Literal["model", "space"]

SECONDS_WITHOUT_DATA = 60
"""How long the server may say nothing. It may take its time for a commit."""

LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN"
ONLY_WRITE = "--dry-run only writes the folder"


class Hub:
    """The user's account. Every wait for the server ends after SECONDS_WITHOUT_DATA."""

    def __init__(self) -> None:
        """Ask the server whose token this is. Raises MissingInputError if there is none, or no answer."""
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise MissingInputError(f"HF_HUB_OFFLINE is set, so nothing can be pushed: unset it, or {ONLY_WRITE}.")
        if huggingface_hub.get_token() is None:
            raise MissingInputError(f"no token of the Hugging Face Hub was found. {LOG_IN}; {ONLY_WRITE}.")
        self.api = huggingface_hub.HfApi(library_name="distcls", library_version=__version__)
        if not self.api.endpoint.endswith("huggingface.co"):
            # Other servers of this kind have no Xet storage, and its client would wait for it for ever.
            huggingface_hub.constants.HF_HUB_DISABLE_XET = True
        if not sys.stderr.isatty():
            disable_progress_bars()
        _limit_waiting()
        with self._explaining(None):
            self.user: str = self.api.whoami()["name"]

    def make(self, repo: str, kind: Kind, private: bool) -> str:
        """Make the repository if it is new, and return its address. Raises MissingInputError."""
        sdk: dict[str, Any] = {"space_sdk": "gradio"} if kind == "space" else {}
        with self._explaining(repo):
            return str(self.api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True, **sdk))

    def upload(self, folder: Path, repo: str, kind: Kind) -> None:
        """Put the folder's files in the repository, in one commit.

        Files of these names are replaced (the older ones stay in its history), others kept. Raises MissingInputError.
        """
        with self._explaining(repo):
            self.api.upload_folder(
                folder_path=folder, repo_id=repo, repo_type=kind, commit_message=f"distcls push ({__version__})"
            )

    @contextlib.contextmanager
    def _explaining(self, repo: str | None) -> Iterator[None]:
        """Turn errors of huggingface_hub, and of the HTTP library under it, into messages that say what to do."""
        where = self.api.endpoint
        try:
            yield
        except HfHubHTTPError as error:
            code = error.response.status_code if error.response is not None else None
            reason = (error.server_message or str(error).strip().splitlines()[0]).rstrip(".")
            if code == 401:
                raise MissingInputError(f"{where} does not accept the token ({reason}). {LOG_IN}.") from error
            if code in (403, 404) and repo is not None:
                raise MissingInputError(
                    f"{where} does not let this token write to {repo} ({reason}). Give a repository of "
                    f"{self.user} or of an organization that you may write to, --repo OWNER/NAME, and a token with "
                    "the permission to write: https://huggingface.co/settings/tokens"
                ) from error
            raise MissingInputError(f"{where} refused: {reason}. Try again later; {ONLY_WRITE}.") from error
        except OfflineModeIsEnabled as error:
            raise MissingInputError(f"{error}. Unset HF_HUB_OFFLINE.") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
                raise
            raise MissingInputError(
                f"cannot reach {where} ({type(error).__name__}: {error}). Check the network and HF_ENDPOINT, then run "
                f"the same command again; {ONLY_WRITE}."
            ) from error


def check_repo(repo: str) -> None:
    """Raise UsageError if the Hub would not take this name of a repository."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(
            f"--repo {repo} is not a name for a repository: give NAME or OWNER/NAME, of letters, digits, '-', '_' and "
            f"'.', such as flowers-resnet18 ({str(error).rstrip('.')})"
        ) from error


def _limit_waiting() -> None:
    """Give huggingface_hub's HTTP client, which has no limit of its own, one for each wait."""
    client = get_session()  # its default, made again each time: the library makes a new one after some errors
    make = type(client)
    hooks = client.event_hooks
    set_client_factory(lambda: make(event_hooks=hooks, follow_redirects=True, timeout=SECONDS_WITHOUT_DATA))
