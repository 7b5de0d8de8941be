"""Finding a model's files: a local path, or the Hugging Face Hub and its cache."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from furl_lightning.vlm.interface import UnusableModel

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model",
)  # fmt: skip
"""Names of the files in which the tokenizers of these families are stored."""
REDUNDANT = {
    "tokenizer.json": ("vocab.json", "merges.txt", "vocab.txt"),
    "model.safetensors": ("model.safetensors.index.json", "model-*.safetensors"),
}
"""Files that are not read where there is another."""


def locate(path: str, files: Sequence[str], revision: str | None = None, kind: str = "folder") -> Path:
    """A local path as it is, or the folder in the Hub's cache that holds a model's files.

    Files that the cache lacks are downloaded into it, with the Hub client's progress bars; later calls
    need no network. ``HF_HUB_OFFLINE=1`` forbids the network altogether. Where the Hub is out of reach after an
    interrupted download, what the cache holds is enough if nothing is missing that would be read.

    Args:
        path: a local path, or a name on the Hub, owner/model.
        files: names to fetch from the Hub; ``*`` matches any characters.
        revision: branch, tag or commit on the Hub.
        kind: what a local path should be, for messages.

    Raises:
        UnusableModel: there is no such path, the Hub has no such model or is out of reach, or the cache lacks a file.
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
        if (folder := _in_cache(path, files, revision)) is not None:
            return folder
        what = f"{path} {files[0]}" if len(files) == 1 else path
        at = f" --revision {revision}" if revision else ""
        raise UnusableModel(
            f"'{path}' is no {kind} here and cannot be had from the Hugging Face Hub ({type(error).__name__}); "
            f"fetch it on a machine with network (hf download {what}{at} --local-dir FOLDER) and give that folder"
        ) from error


def _in_cache(name: str, files: Sequence[str], revision: str | None) -> Path | None:
    """The folder of a model that the Hub's cache has in part; None where it has nothing of it, or does not know.

    Raises:
        UnusableModel: a file is missing that would be read.
    """
    from huggingface_hub import get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        names = [file.path for file in get_cached_repo_tree(name, revision=revision) if _matches(file.path, files)]
    except (CachedRepoTreeNotFoundError, ValueError):  # ValueError: no name that the Hub would take
        return None
    cached = {file: try_to_load_from_cache(name, file, revision=revision) for file in names}
    folder = next((Path(place).parent for place in cached.values() if isinstance(place, str)), None)
    if folder is not None:
        redundant = [pattern for file, others in REDUNDANT.items() if (folder / file).is_file() for pattern in others]
        for file in names:
            if not _matches(file, redundant):
                require(folder, name, (file,), "", revision)
    return folder


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def require(folder: Path, path: str, files: Sequence[str], otherwise: str, revision: str | None = None) -> None:
    """Check that a folder that :func:`locate` returned has one of some files.

    Args:
        folder: what :func:`locate` returned.
        path: what it was given.
        files: names, one of which must be there.
        otherwise: what to do where the folder is the user's.
        revision: on the Hub.

    Raises:
        UnusableModel: none is there; says how to fetch it where the folder is the Hub's cache.
    """
    if any((folder / file).is_file() for file in files):
        return
    names = " or ".join(files)
    if Path(path).expanduser().exists():
        raise UnusableModel(f"'{path}' has no {names}; {otherwise}")
    at = f" --revision {revision}" if revision else ""
    raise UnusableModel(
        f"'{path}' has no {names} in the Hub's cache here; if the Hub has it, fetch it with a network: "
        f"hf download {path} {files[0]}{at}"
    )
