"""Pushing a release to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cameleer
from cameleer.errors import RunError


def require_token() -> str:
    """The hub's token of this machine. Raises RunError where there is none."""
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise RunError(
            "--push needs a Hugging Face token, and none is set here. Put one that may write in "
            "the variable HF_TOKEN, or log in with `hf auth login`."
        )
    return token


def push(directory: Path, repo: str, *, token: str, revision: str = "", api: Any = None) -> str:
    """Upload a release. A repository that is not there yet is made, private.

    Args:
        repo: ``owner/name``.
        revision: A branch, made where it is not there. Empty: main.
        api: What talks to the hub, for tests; huggingface_hub's HfApi otherwise.

    Returns:
        Where it can be seen.

    Raises:
        RunError: The hub refuses, or cannot be reached. The message never holds the token.
    """
    from huggingface_hub import HfApi

    api = api or HfApi(token=token, library_name="cameleer", library_version=cameleer.__version__)
    try:
        api.create_repo(repo, repo_type="model", private=True, exist_ok=True)
        if revision:
            api.create_branch(repo, branch=revision, repo_type="model", exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type="model",
            folder_path=str(directory),
            revision=revision or None,
            commit_message=f"Released by Cameleer {cameleer.__version__}",
        )
    except Exception as error:  # The client raises a dozen kinds; all mean the same here.
        why = str(error).strip().split("\n")[0].replace(token, "(token)")
        # The error that it came from would be shown with the token in its text.
        raise RunError(
            f"{directory} could not be pushed to {repo}: {why or type(error).__name__}. Look at "
            "the name and the token's rights; the release itself is whole, and stays."
        ) from None
    return f"https://huggingface.co/{repo}" + (f"/tree/{revision}" if revision else "")
