"""Instructions as text embeddings: single sentences, and ensembles of several that say the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from furl_lightning.vlm import VLM

Prompt = str | list[str]
"""A sentence, or several of an ensemble."""


def sentences_of(prompt: Prompt) -> list[str]:
    """A prompt's sentences."""
    return [prompt] if isinstance(prompt, str) else list(prompt)


def text_of(prompt: Prompt) -> str:
    """A prompt on one line, to be read by a person."""
    return " / ".join(sentences_of(prompt))


def embed_prompts(vlm: VLM, prompts: Sequence[Prompt]) -> Tensor:
    """The embedding of each prompt, float32 [len(prompts), vlm.width].

    Each sentence is embedded alone, so that an agent's embedding does not depend on the others'.

    Raises:
        ValueError: a sentence that the model cannot read; see :meth:`VLM.encode_texts`.
    """
    sentences = dict.fromkeys(sentence for prompt in prompts for sentence in sentences_of(prompt))
    embedding = {sentence: vlm.encode_texts([sentence])[0] for sentence in sentences}
    return torch.stack([ensemble(torch.stack([embedding[s] for s in sentences_of(prompt)])) for prompt in prompts])


def ensemble(embedding: Tensor) -> Tensor:
    """One embedding [D] of an ensemble's sentences [K, D]; of a single sentence its own.

    As CLIP's authors do (arXiv 2103.00020, section 3.1.4), embeddings are brought to length 1 and
    averaged. The result is given the sentences' mean length, since projection heads see lengths.
    """
    if len(embedding) == 1:
        return embedding[0]
    direction = F.normalize(F.normalize(embedding, dim=-1).mean(0), dim=-1)
    return direction * embedding.norm(dim=-1).mean()
