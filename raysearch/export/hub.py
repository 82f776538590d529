"""Uploads an export to the Hugging Face hub as it lies in its folder: the model, its card, tags and pipeline tag."""

from __future__ import annotations

import re
from pathlib import Path

from raysearch.errors import RunError, SpecError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repository(name: str) -> None:
    """Raises SpecError unless the name is that of a repository: ORG/NAME."""
    if not _REPOSITORY.fullmatch(name):
        raise SpecError(f"{name!r} is no repository; name one as ORG/NAME", file="--push")


def push_export(folder: Path, repository: str, *, public: bool = False) -> str:
    """Uploads all files of an export and returns the address of the commit.

    A repository that is missing is made, private unless `public`. Raises RunError, with the remedy, if the hub refuses.
    """
    check_repository(repository)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    hub = HfApi(library_name="raysearch")
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        commit = hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Export of raysearch")
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        remedy = f"the model lies in {folder}; log in with `hf auth login`, or set HF_TOKEN, and run `hf upload`"
        raise RunError(f"{repository} was not uploaded: {reason}; {remedy}") from error
    return str(commit.commit_url)
