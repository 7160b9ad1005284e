"""Upload an exported folder, which happens only where it was asked for by name."""

import importlib.util
from pathlib import Path

from tokenunify_scale.config import HostError

EXTRA = "pip install 'tokenunify-scale[hub]'"


def require(*, check: bool, push: str | None) -> None:
    """Refuse what cannot be done here, before anything is written.

    Raises:
        HostError: transformers is missing for the check, or huggingface_hub for the upload.
    """
    if check and importlib.util.find_spec("transformers") is None:
        raise HostError(
            f"an export is checked by loading it with transformers, which is not installed: "
            f"{EXTRA}, or --set check=false"
        )
    if push and importlib.util.find_spec("huggingface_hub") is None:
        raise HostError(f"--push needs huggingface_hub: {EXTRA}")


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload all files of a folder but the run's own records.

    Args:
        folder: exported.
        repository: OWNER/NAME; made if it is not there.
        private: whether one that is made is.

    Returns:
        The address of the commit.

    Raises:
        HostError: the hub refused, or cannot be reached. The folder stays.
    """
    from huggingface_hub import HfApi

    own = ["config.yaml", "environment.json", "result.json"]
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=own,
            commit_message="Export of tokenunify_scale",
        )
    except Exception as error:  # of many kinds: the network's, the hub's, of a missing token
        reason = " ".join(str(error).split())[:200]
        raise HostError(f"{folder} was written, but not pushed to {repository}: {reason}") from None
    return str(done.commit_url)
