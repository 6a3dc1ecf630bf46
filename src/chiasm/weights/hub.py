"""Checkpoints by their names on the Hub of Hugging Face, through its own client and its cache.

    openai/clip-vit-base-patch32
    google/siglip2-base-patch16-naflex@main        a branch, a tag or a commit after the @
    hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K   open_clip's files of a repository that holds transformers' too

Only settings, texts and tensors are fetched, from the top of a repository and from `processor/`; no code, and pickled
tensors only where there are no others, and never of a model that transformers computes. HF_HOME, HF_ENDPOINT, HF_TOKEN
and HF_HUB_OFFLINE mean what they always mean."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.errors import CheckpointError, MissingExtra
from chiasm.weights import open_clip, transformers
from chiasm.weights.checkpoint_folder import CheckpointFolder

_OPEN_CLIP = "hf-hub:"
_NAME = re.compile(r"(hf-hub:)?(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
# Patterns of the client match across folders, so that each of these has one that keeps to its own.
_SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.txt.gz", "*.tiktoken")
_ELSEWHERE = ("[!p]*/*", "p[!r]*/*", "processor/*/*")
_OPENAI = "openai/clip-vit-base-patch32"  # the tokenizer that open_clip takes where a config names none


@dataclass(frozen=True)
class Name:
    """A checkpoint on the Hub. open_clip: whether its files in open_clip's layout are meant."""

    repository: str
    revision: str | None = None
    open_clip: bool = False

    def means_open_clip(self, folder: CheckpointFolder) -> bool:
        """Whether the checkpoint that was fetched into a folder is to be read in open_clip's layout."""
        return (self.open_clip and folder.holds(open_clip.SETTINGS)) or folder.is_open_clip

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


def name_of(text: str) -> Name | None:
    """The name in a text of the form `owner/name`, `owner/name@revision` or `hf-hub:...`; None for any other."""
    found = _NAME.fullmatch(text)
    if found is None or ".." in text:
        return None
    return Name(found["repository"], found["revision"], text.startswith(_OPEN_CLIP))


def fetch(name: Name) -> tuple[CheckpointFolder, CheckpointFolder]:
    """The folder of a checkpoint in the Hub's cache, and that of its tokenizer, which may be another repository's.

    What is in the cache already is not fetched again; without a network what is there is taken.
    Raises CheckpointError if there is no such repository or revision, it may not be read, it cannot be reached, or it
    holds no weights, and, before weights are fetched, for an unknown architecture; MissingExtra without the Hub's
    client.
    """
    folder = _fetch_settings(name)
    layout = open_clip.WEIGHTS if name.means_open_clip(folder) else transformers.stored_as(folder)
    _fetch_weights(name, folder, layout)
    if layout is not open_clip.WEIGHTS or any(map(folder.holds, transformers.TOKENIZERS)):
        return folder, folder
    text = (folder.required(open_clip.SETTINGS).get("model_cfg") or {}).get("text_cfg") or {}
    lender = name_of(str(text.get("hf_tokenizer_name") or _OPENAI))
    return folder, folder if lender is None else _fetch_settings(lender)


def _fetch_settings(name: Name) -> CheckpointFolder:
    client = _client(name)
    try:
        found = client.snapshot_download(
            name.repository, revision=name.revision, allow_patterns=_SETTINGS, ignore_patterns=_ELSEWHERE
        )
    except (OSError, ValueError, client.errors.HTTPError) as error:
        raise CheckpointError(_explained(name, error)) from error
    return CheckpointFolder(Path(found))


def _fetch_weights(name: Name, folder: CheckpointFolder, layout: Sequence[str]) -> None:
    """Fetches into the folder the first set of weights of that layout that the repository holds."""
    client, errors = _client(name), []
    commit = folder.path.name  # of the settings, whatever the branch has become meanwhile
    for file in layout:
        try:
            for part in _parts(folder, file):
                client.hf_hub_download(name.repository, part, revision=commit)
        except client.errors.EntryNotFoundError as error:
            errors.append(error)
        except (OSError, ValueError, client.errors.HTTPError) as error:
            raise CheckpointError(_explained(name, error)) from error
        else:
            return
    unreached = [error for error in errors if isinstance(error, client.errors.LocalEntryNotFoundError)]
    if unreached:
        raise CheckpointError(_explained(name, unreached[0])) from unreached[0]
    why = "; pickled ones are not read of a model that transformers computes" if layout == transformers.SAFE else ""
    raise CheckpointError(f"the repository {name} holds no weights; expected one of {', '.join(layout)}{why}")


def _parts(folder: CheckpointFolder, file: str) -> Iterator[str]:
    """The files that hold the weights of that name: itself, or the shards in its index."""
    yield file
    if file.endswith(".index.json"):
        for shard in sorted(set(folder.required(file).get("weight_map", {}).values())):
            if Path(shard).name != shard or Path(shard).suffix not in (".safetensors", ".bin"):
                raise CheckpointError(f"{folder / file} names the shard {shard!r}, which is no file of weights")
            yield shard


def _client(name: Name) -> Any:
    """The Hub's client. Raises MissingExtra where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub", f"there is no folder {name}; to find it on the Hub") from error
    return huggingface_hub


def _explained(name: Name, error: Exception) -> str:
    """One sentence that says what went wrong."""
    from huggingface_hub import constants, errors

    missing = f"there is no folder {name} here"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"the repository {name} is gated: accept its terms at {constants.ENDPOINT}/{name.repository}, and log in "
            "with `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{missing}, and no repository of that name on the Hub that you may read; private ones need a login"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository {name.repository} has no revision '{name.revision}'"
    if constants.HF_HUB_OFFLINE:
        return f"{missing}, it is not whole in the Hub's cache, and HF_HUB_OFFLINE is set; unset it once to fetch it"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"{missing}, it is not whole in the Hub's cache, and the Hub at {constants.ENDPOINT} cannot be reached"
    if isinstance(error, errors.HFValidationError):
        return f"{missing}, and the Hub has no names of that form: {error}"
    return f"{name} cannot be fetched from the Hub: {str(error).splitlines()[0]}"
