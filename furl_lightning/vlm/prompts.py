"""Instructions as text embeddings: single sentences, and ensembles of several that say the same."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm.interface import VLM, UnusableModel

Prompt = str | list[str]
"""A sentence, or several of an ensemble."""


def sentences_of(prompt: Prompt) -> list[str]:
    """A prompt's sentences."""
    return [prompt] if isinstance(prompt, str) else list(prompt)


def text_of(prompt: Prompt) -> str:
    """A prompt on one line, for a person to read."""
    return " / ".join(sentences_of(prompt))


def has_word(sentence: str) -> bool:
    """Whether a sentence has a letter or a digit, of any script."""
    return re.search(r"\w", sentence) is not None


def check_prompt(prompt: Prompt, option: str) -> None:
    """Refuse a prompt that says nothing.

    Args:
        prompt: what the user gave.
        option: that it was given by, for the message.

    Raises:
        BadInput: there is no sentence, or one that is empty, without a word, or no text.
    """
    sentences = sentences_of(prompt)
    if not sentences or not all(sentence.strip() for sentence in sentences):
        raise BadInput(f"{option} has an empty sentence; write what the robot is to do")
    for sentence in sentences:
        if sentence.lstrip().startswith(("{", "[")):  # what a parser makes of {task: 3}, where a value is no text
            raise BadInput(f"{option} has '{sentence}', which is no sentence; write text, in quotes where in doubt")
        if not has_word(sentence):
            raise BadInput(f"{option} has a sentence without a word, '{sentence}'; write what the robot is to do")


def embed_prompt(vlm: VLM, prompt: Prompt, option: str) -> Tensor:
    """The embedding of a prompt, float32 [vlm.width]; every command checks its sentences by this.

    Each sentence is embedded alone, so that its embedding does not depend on the others'.

    Args:
        vlm: the model that reads it.
        prompt: what the user gave, or may replace by the option.
        option: for the message.

    Raises:
        BadInput: a sentence that says nothing or that the model cannot read; the option is named.
        UnusableModel: the model's tokenizer is another model's.
    """
    check_prompt(prompt, option)
    try:
        return ensemble(torch.cat([vlm.encode_texts([sentence]) for sentence in sentences_of(prompt)]))
    except UnusableModel:
        raise
    except BadInput as error:
        raise BadInput(f"{option} cannot be read: {error}") from error


def ensemble(embedding: Tensor) -> Tensor:
    """One embedding [D] for an ensemble's sentences [K, D]; a single sentence keeps its embedding.

    As CLIP's authors do (arXiv 2103.00020, section 3.1.4), embeddings are scaled to length 1 and
    averaged. The mean is scaled to the sentences' mean length, since projection heads see lengths.
    """
    if len(embedding) == 1:
        return embedding[0]
    direction = F.normalize(F.normalize(embedding, dim=-1).mean(0), dim=-1)
    return direction * embedding.norm(dim=-1).mean()
