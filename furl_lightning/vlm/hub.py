"""Finding a model's files: a local path, or the Hugging Face Hub and its cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from furl_lightning.vlm.interface import UnusableModel

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model",
)  # fmt: skip
"""Names of the files in which the tokenizers of these families are stored."""


def locate(path: str, files: Sequence[str], revision: str | None = None, kind: str = "folder") -> Path:
    """A local path as it is, or the folder in the Hub's cache that holds a model's files.

    Files that the cache lacks are downloaded into it, with the Hub client's progress bars; later calls
    need no network. ``HF_HUB_OFFLINE=1`` forbids the network altogether.

    Args:
        path: a local path, or a name on the Hub, owner/model.
        files: names to fetch from the Hub; ``*`` matches any characters.
        revision: branch, tag or commit on the Hub.
        kind: what a local path should be, for messages.

    Raises:
        UnusableModel: there is no such path, or the Hub has no such model or is out of reach.
    """
    local = Path(path).expanduser()
    if local.exists():
        if revision is not None:
            raise UnusableModel(
                f"revision '{revision}' is for names on the Hub, but '{path}' is a local {kind}; leave the revision out"
            )
        return local
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UnusableModel(f"there is no {kind} '{path}'; give a model's {kind} or its name on the Hub, owner/model")
    from huggingface_hub import snapshot_download  # imported here, so that local models do without it

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(files)))
    except Exception as error:  # the Hub's client raises a dozen kinds, some of them its HTTP library's
        what = f"{path} {files[0]}" if len(files) == 1 else path
        at = f" --revision {revision}" if revision else ""
        raise UnusableModel(
            f"'{path}' is no {kind} here and cannot be had from the Hugging Face Hub ({type(error).__name__}); "
            f"fetch it on a machine with network (hf download {what}{at} --local-dir FOLDER) and give that folder"
        ) from error
