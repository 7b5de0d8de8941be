"""Instructions as text embeddings: single sentences, and ensembles of several that say the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm.interface import VLM

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


def check_prompt(prompt: Prompt, where: str) -> None:
    """Refuse a prompt that says nothing.

    Args:
        prompt: what the user gave.
        where: the option that it was given by, for the message.

    Raises:
        BadInput: there is no sentence, an empty one, or one without a word.
    """
    sentences = sentences_of(prompt)
    if not sentences or not all(sentence.strip() for sentence in sentences):
        raise BadInput(f"{where} has an empty sentence; write what the robot is to do")
    for sentence in sentences:
        if not has_word(sentence):
            raise BadInput(f"{where} has a sentence without a word, '{sentence}'; write what the robot is to do")


def embed_prompts(vlm: VLM, prompts: Sequence[Prompt]) -> Tensor:
    """The embedding of each prompt, float32 [len(prompts), vlm.width].

    Each sentence is embedded alone, so that an agent's embedding does not depend on the others'.

    Raises:
        BadInput: a sentence that the model cannot read; see :meth:`VLM.encode_texts`.
    """
    sentences = dict.fromkeys(sentence for prompt in prompts for sentence in sentences_of(prompt))
    embedding = {sentence: vlm.encode_texts([sentence])[0] for sentence in sentences}
    return torch.stack([ensemble(torch.stack([embedding[s] for s in sentences_of(prompt)])) for prompt in prompts])


def ensemble(embedding: Tensor) -> Tensor:
    """One embedding [D] for an ensemble's sentences [K, D]; a single sentence keeps its embedding.

    As CLIP's authors do (arXiv 2103.00020, section 3.1.4), embeddings are scaled to length 1 and
    averaged. The mean is scaled to the sentences' mean length, since projection heads see lengths.
    """
    if len(embedding) == 1:
        return embedding[0]
    direction = F.normalize(F.normalize(embedding, dim=-1).mean(0), dim=-1)
    return direction * embedding.norm(dim=-1).mean()
