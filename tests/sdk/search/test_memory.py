"""Batches that fit into a memory: the same prompts, fewer of them at once, and an error where nothing fits."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import simulated_device
import torch
import toy_classification
from torch import Tensor

from hardprompts import BackendError, ClassifierPromptTuner, PromptDistiller, PromptInverter, load_backend
from hardprompts.search.memory import BatchMemory, Room
from hardprompts.testing import toy_backend, toy_language_model

CPU = torch.device("cpu")
OPTIONS = {"seed": 0, "progress": False, "max_evaluations": 600, "num_tokens": 4}


def doubled(sizes: list[int]) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    def work(batch: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(batch))
        return batch * 2, groups + batch[:, 0]

    return work


def least_of(error: BackendError) -> str:
    """The least memory that would do, as the message has it."""
    found = re.search(r"the least is vram='(\d+MB)'", str(error))
    assert found is not None, error
    return found[1]


def test_a_batch_is_done_in_parts_that_fit() -> None:
    batch, groups, sizes = torch.arange(40).reshape(10, 4), torch.zeros(10, dtype=torch.long), []
    # Doubled, a row takes 32 bytes; another 8 are what is added to its group, and 3 rows of both fit.
    memory = BatchMemory(Room(size=150, device=CPU, held=()))
    whole = doubled([])(batch, groups)
    parts = memory.in_parts(doubled(sizes), batch, groups, "score")
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    assert sizes[3:] == [3, 3, 3, 1]
    sizes.clear()
    memory.in_parts(doubled(sizes), batch, groups, "score")
    assert sizes == [3, 3, 3, 1], "it is measured once"


def test_what_is_held_leaves_less_room() -> None:
    batch, groups = torch.arange(40).reshape(10, 4), torch.zeros(10, dtype=torch.long)
    room = Room(size=300, device=CPU, held=({"weights": torch.ones(50)},))
    sizes: list[int] = []
    BatchMemory(room).in_parts(doubled(sizes), batch, groups, "score")
    assert sizes[3:] == [1] * 10
    full = Room(size=220, device=CPU, held=room.held)
    with pytest.raises(BackendError, match=r"vram = 220 B is too little: .* take 200 B, and the score of one prompt"):
        BatchMemory(full).in_parts(doubled([]), batch, groups, "score")


@pytest.mark.parametrize("method", ["pez", "gcg", "refine", "build+refine"])
def test_the_same_prompts_are_found_in_parts(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inverter = PromptInverter(load_backend("emoji", device="cpu"), method=method)
    target = inverter.backend.encode_texts(["a red fox at night"])
    plain = inverter.invert(target, **OPTIONS)
    with pytest.raises(BackendError) as failed:
        inverter.invert(target, vram="1MB", **OPTIONS)
    divided: list[bool] = []
    in_parts = BatchMemory.in_parts

    def watched(self: BatchMemory, work: Any, *given: Any) -> Any:
        sizes: list[int] = []

        def counted(batch: Tensor, groups: Tensor) -> Any:
            sizes.append(len(batch))
            return work(batch, groups)

        found = in_parts(self, counted, *given)
        divided.append(max(sizes) < len(given[0]))
        return found

    monkeypatch.setattr(BatchMemory, "in_parts", watched)
    found = inverter.invert(target, vram=least_of(failed.value), **OPTIONS)
    assert any(divided), "everything fitted, so nothing was tried"
    assert found.token_ids == plain.token_ids and found.evaluations == plain.evaluations
    assert found.score == pytest.approx(plain.score, abs=1e-5)


def test_parts_of_a_batch_follow_one_draw() -> None:
    from hardprompts.objectives import FeatureSimilarity
    from hardprompts.prompts import PromptTemplate
    from hardprompts.search.bound import BoundObjective

    backend = toy_backend()
    targets = torch.nn.functional.normalize(torch.randn(1, 9, backend.feature_width), dim=-1)
    ids = backend.vocabulary.sample((6, 3), torch.Generator().manual_seed(0))
    groups = torch.zeros(6, dtype=torch.long)
    found = []
    for room in (None, Room(size=2**30, device=CPU, held=())):
        objective = FeatureSimilarity(
            backend.text_encoder, targets, torch.ones(1, 9), sample_size=2, generator=torch.Generator().manual_seed(1)
        )
        bound = BoundObjective(objective, objective, backend.vocabulary, PromptTemplate(), groups, room=room)
        if room is not None:
            bound._spent.memory._measured["gradient", 3] = 2
        found.append([bound.value_and_grad(backend.vocabulary.embed(ids))[1] for _ in range(2)])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts)


def test_distilling_and_classifying_fit_too() -> None:
    distiller = PromptDistiller(load_backend("emoji", device="cpu"))
    plain, within = (
        distiller.distill("a red fox at night on a green field", vram=vram, **OPTIONS) for vram in (None, "64MB")
    )
    assert plain.token_ids == within.token_ids
    texts, labels = toy_classification.examples(24)

    def fitted(vram: str | int | None) -> str:
        tuner = ClassifierPromptTuner(
            toy_language_model("causal"),
            num_tokens=2,
            max_steps=6,
            restarts=2,
            random_state=0,
            progress=False,
            vram=vram,
        )
        return str(tuner.fit(texts, labels).prompt_)

    assert fitted(None) == fitted("1GB")
    with pytest.raises(BackendError, match="one text of .* tokens with its prompt"):
        fitted("4KB")


@pytest.mark.skipif(not simulated_device.available, reason="needs torch's Python backend")
def test_a_search_stays_within_its_memory_on_a_device() -> None:
    with simulated_device.simulated() as device, simulated_device.counting() as counts:
        inverter = PromptInverter(load_backend("emoji", device=device), method="refine")
        target = inverter.backend.encode_texts(["a red fox at night"])
        with pytest.raises(BackendError) as failed:
            inverter.invert(target, vram="1MB", **OPTIONS)
        within = int(least_of(failed.value).removesuffix("MB")) * 2**20
        counts.peak = counts.alive
        inverter.invert(target, vram=within, **OPTIONS)
        assert counts.peak <= within
        counts.peak = counts.alive
        inverter.invert(target, **OPTIONS)
        assert counts.peak > within, "it would have fitted by itself"


def test_a_denoiser_is_searched_in_another_way() -> None:
    from hardprompts.diffusion import DenoisingOptions

    with pytest.raises(ValueError, match=r"vram = '8GB' is of no use .*pipe.invert_prompt\(vram=...\)"):
        DenoisingOptions(vram="8GB")
    with pytest.raises(ValueError, match="vram must be a size"):
        DenoisingOptions(vram="eight")
