"""PEZ against the reference code: the same tokens at every step, from the same start, on the same model."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from programs import program

from hardprompts.methods.pez import PEZ
from hardprompts.objectives import FeatureSimilarity
from hardprompts.search.bound import BoundObjective
from hardprompts.search.loop import run_search
from hardprompts.search.protocol import Candidates
from hardprompts.vocabulary import Vocabulary

pytest.importorskip("open_clip")
DATA = Path(__file__).parents[2] / "data"
RECORDED = json.loads((DATA / "pez_reference.json").read_text(encoding="utf-8"))["runs"]


class IdsAsText:
    """Spells ids as numbers, since the reference meets prompts that have no text and keeps them."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


@dataclasses.dataclass(frozen=True)
class Listened:
    """A search that also writes down what it proposes."""

    search: PEZ
    found: list[Candidates]

    def steps(
        self, objective: BoundObjective, vocabulary: Vocabulary, initial_ids: torch.Tensor, generator: torch.Generator
    ) -> Iterator[Candidates]:
        for candidates in self.search.steps(objective, vocabulary, initial_ids, generator):
            self.found.append(candidates)
            yield candidates


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return program(DATA / "record_pez_reference.py")


@pytest.fixture(scope="module")
def text_encoder(recipe: ModuleType) -> Any:
    import open_clip

    from hardprompts_openclip.backend import from_model

    model = open_clip.CLIP(recipe.EMBED_DIM, recipe.VISION, recipe.TEXT)
    recipe.set_weights(model)
    return from_model(model, open_clip.get_tokenizer("ViT-B-32")).text_encoder


@pytest.mark.parametrize("name", RECORDED)
def test_the_same_tokens_at_every_step(
    name: str, recipe: ModuleType, text_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RECORDED[name]
    count, batch = run["targets"], run["batch_size"]
    if batch is not None and batch < count:  # the same targets, whatever this torch would draw
        draws = iter([torch.tensor(drawn) for drawn in run["drawn"]])
        monkeypatch.setattr(torch, "randperm", lambda *_args, **_kwargs: next(draws))
    objective = FeatureSimilarity(
        text_encoder,
        targets=torch.nn.functional.normalize(recipe.targets(count), dim=1).unsqueeze(0),
        weights=torch.full((1, count), 1 / count),
        sample_size=batch,
    )
    vocabulary = dataclasses.replace(text_encoder.vocabulary.unrestricted(), tokenizer=IdsAsText())
    found: list[Candidates] = []
    (result,) = run_search(
        Listened(PEZ(learning_rate=0.1, weight_decay=0.1), found),
        objective,
        objective,
        vocabulary,
        torch.tensor([run["ids"][0]]),
        max_steps=recipe.STEPS,
    )
    ids = [candidates.ids[0].tolist() for candidates in found]
    wrong = [step for step, (ours, theirs) in enumerate(zip(ids, run["ids"], strict=True)) if ours != theirs]
    assert len(ids) == recipe.STEPS and not wrong, f"other tokens from step {wrong[0]} of {recipe.STEPS}"
    assert len({tuple(row) for row in ids}) > recipe.STEPS // 2, "the run stands still, and would show nothing"
    scores = torch.cat([candidates.scores for candidates in found if candidates.scores is not None])
    torch.testing.assert_close(scores, torch.tensor(run["scores"]), atol=1e-5, rtol=0)
    assert result.best.token_ids == tuple(ids[int(torch.tensor(run["scores"]).argmax())])
    assert result.best.score == pytest.approx(max(run["scores"]), abs=1e-5)
