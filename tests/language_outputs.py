"""What toy language models make of a prompt, computed the long way."""

import torch

from hardprompts.testing import ToyLanguageModel


def outcome(model: ToyLanguageModel, embeddings: torch.Tensor, answers: tuple[str, ...]) -> torch.Tensor:
    """log p of what may follow a text given as embeddings, one pass for each token of each answer."""
    vocabulary = model.vocabulary

    def following(written: list[int], masks: int, place: int) -> torch.Tensor:
        before, behind = (vocabulary.embed(torch.tensor(part, dtype=torch.long)) for part in model.frame)
        parts = [before, embeddings]
        decoder = None
        if model.kind == "causal":
            parts.append(vocabulary.embed(torch.tensor(written, dtype=torch.long)))
            at = len(before) + len(embeddings) + len(written) - 1
        elif model.kind == "masked":
            parts.append(vocabulary.embed(torch.tensor([model.mask_id] * masks)))
            at = len(before) + len(embeddings) + place
        else:
            decoder, at = torch.tensor([written], dtype=torch.long), len(written)
        row = torch.cat([*parts, behind])[None]
        states = model.states(row, torch.ones(row.shape[:2], dtype=torch.bool), decoder)
        return model.logits(states[0, at]).log_softmax(dim=-1)

    if not answers:
        return following([], 1, 0)
    totals = []
    for answer in answers:
        ids = vocabulary.encode(answer)
        totals.append(sum(following(ids[:i], len(ids), i)[token] for i, token in enumerate(ids)))
    return torch.stack(totals).log_softmax(dim=0)
