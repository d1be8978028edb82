"""No step waits for a GPU between two reports: no value is asked for, nothing is copied. On a simulated device."""

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import simulated_device
import torch
from simulated_device import counting

from hardprompts.devices import to_device, to_host
from hardprompts.methods import GBDA, GCG, MAC, PEZ, PH2P, AutoPrompt, FluentPrompt, PEZRefine, PromptTuning, Refine
from hardprompts.objectives import FeatureSimilarity
from hardprompts.search import Candidates, Search, run_search
from hardprompts.search.draws import Draws
from hardprompts.testing import toy_backend

pytestmark = pytest.mark.skipif(not simulated_device.available, reason="needs torch's Python backend")

#: Steps between two reports on a GPU.
REPORT = 10


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    with simulated_device.simulated() as device:
        yield device


@dataclasses.dataclass(frozen=True)
class Watched:
    """A method, and what its device was asked for up to each of its proposals: (waits, transfers)."""

    search: Search
    marks: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    waited: list[str] = dataclasses.field(default_factory=list)

    def steps(self, *arguments: Any) -> Iterator[Candidates]:
        with counting() as counts:
            for candidates in self.search.steps(*arguments):
                self.marks.append((counts.waits, counts.transfers))
                self.waited[:] = counts.waited
                yield candidates

    def between(self) -> list[tuple[int, int]]:
        """Waits and transfers from each proposal to the next."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return [(after[0] - before[0], after[1] - before[1]) for before, after in pairs]


def watched(search: Search, device: torch.device, steps: int = 22, **options: Any) -> Watched:
    """A run of a method on the device."""
    backend = toy_backend(device=device)
    target = backend.encode_texts(["red house near river", "small boat"])[:, None]
    objective = FeatureSimilarity(backend.text_encoder, target, torch.ones(2, 1, device=device))
    start = backend.vocabulary.sample((6, 4), torch.Generator().manual_seed(0))
    watch = Watched(search)
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    options = {"score_per_token": 0.01, **options}
    run_search(
        watch, objective, objective, backend.vocabulary, start, groups=groups, max_steps=steps, seed=0, **options
    )
    return watch


WITHOUT_WAITING = {
    "pez": PEZ(),
    "pez-sgd": PEZ(optimizer="sgd"),
    "pez-adafactor": PEZ(optimizer="adafactor"),
    "pez-dropout": PEZ(token_dropout=1),
    "exploration of the default": PEZRefine(),
    "ph2p": PH2P(),
    "ph2p-code": PH2P.code(),
    "ph2p-lbfgs": PH2P.lbfgs(),
    "gcg": GCG(),
    "mac": MAC(),
    "gbda": GBDA(),
    "soft": PromptTuning(),
    "fluentprompt": FluentPrompt(),
    "autoprompt": AutoPrompt(),
}


@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_no_step_waits_between_two_reports(name: str, device: torch.device) -> None:
    steps = 22
    watch = watched(WITHOUT_WAITING[name], device, steps)
    between = watch.between()
    assert len(between) == steps - 1
    silent = [between[step - 1] for step in range(1, steps) if step % REPORT]
    assert silent == [(0, 0)] * len(silent), watch.waited
    # What was proposed comes to the host in one transfer, its scores in another if they are made only then; the prompts
    # that are continued from in a third, and the random numbers of the coming steps go to the device.
    reports = [between[step - 1] for step in range(REPORT, steps, REPORT)]
    assert all(waits <= 2 and transfers <= 3 for waits, transfers in reports), reports
    if name in ("pez", "exploration of the default", "ph2p", "gbda", "fluentprompt"):
        assert [waits for waits, _ in reports] == [1, 1]


def test_refining_waits_once_for_each_place(device: torch.device) -> None:
    watch = watched(Refine(candidates_per_slot=24, first_candidates=8), device)
    between = watch.between()
    assert len(between) > 10
    # Texts that are read back as other tokens are scored again: the toy has none of them.
    assert all(waits <= 1 + (step % REPORT == 0) for step, (waits, _) in enumerate(between, start=1)), watch.waited


def test_what_waits_is_seen(device: torch.device) -> None:
    """A method that looks at its loss, one that brings something along, one with an index of the CPU."""

    @dataclasses.dataclass(frozen=True)
    class Looking:
        how: str

        def steps(self, objective: Any, vocabulary: Any, initial_ids: Any, generator: Any) -> Iterator[Candidates]:
            order = torch.arange(len(initial_ids))
            while True:
                evaluation, _ = objective.value_and_grad(vocabulary.embed(initial_ids))
                if self.how == "cpu":
                    evaluation.loss.cpu()
                if self.how == "index":
                    evaluation.loss[order]
                if self.how == "refused":
                    evaluation.loss.index_select(0, order)
                yield Candidates(initial_ids, evaluation.score)

    assert all(waits == 0 for step, (waits, _) in enumerate(watched(Looking(""), device).between(), 1) if step % REPORT)
    for how in ("cpu", "index"):
        watch = watched(Looking(how), device)
        assert all(waits >= 1 and transfers >= 1 for waits, transfers in watch.between())
        assert "test_waiting.py" in watch.waited[-1]
    with pytest.raises(RuntimeError, match="same device"):
        watched(Looking("refused"), device)


def test_methods_find_the_same_as_on_the_cpu(device: torch.device) -> None:
    for search in (PEZ(), GCG(), Refine(), FluentPrompt(), PEZ(token_dropout=1), AutoPrompt()):
        found = []
        for where in ("cpu", device):
            backend = toy_backend(device=where)
            target = backend.encode_texts(["red house near river"])[:, None]
            objective = FeatureSimilarity(backend.text_encoder, target, torch.ones(1, 1, device=where))
            start = backend.vocabulary.sample((6, 4), torch.Generator().manual_seed(0))
            found += run_search(
                search, objective, objective, backend.vocabulary, start, max_steps=12, seed=0, report_every=1
            )
        assert [one.text for one in found[0].candidates] == [one.text for one in found[1].candidates], search


def test_a_restart_goes_back_to_the_last_prompt_that_survives(device: torch.device) -> None:
    """With pieces allowed, most prompts of the toy have no text; what GCG goes on from must have one at each report."""
    backend = toy_backend(device=device)
    vocabulary = backend.vocabulary.unrestricted([len(backend.vocabulary) - 1])
    target = backend.encode_texts(["red house near river"])[:, None]
    objective = FeatureSimilarity(backend.text_encoder, target, torch.ones(1, 1, device=device))
    start = backend.vocabulary.sample((6, 4), torch.Generator().manual_seed(0))
    begun: list[list[list[int]]] = []

    @dataclasses.dataclass(frozen=True)
    class Seen:
        search: GCG = GCG(search_width=4)

        def steps(self, objective: Any, *arguments: Any) -> Iterator[Candidates]:
            plain = objective.value_and_grad
            embedded = {tuple(row.tolist()): i for i, row in enumerate(vocabulary.table.cpu())}

            def value_and_grad(embeddings: torch.Tensor, rows: Any = None) -> Any:
                begun.append([[embedded[tuple(token)] for token in row] for row in embeddings.tolist()])
                return plain(embeddings, rows)

            objective.value_and_grad = value_and_grad
            yield from self.search.steps(objective, *arguments)

    run_search(Seen(), objective, objective, vocabulary, start, max_steps=41, seed=0)
    torn = [sum(not vocabulary.survives_round_trip(row) for row in prompts) for prompts in begun]
    assert [torn[step] for step in range(0, 41, REPORT)] == [0] * 5
    assert any(torn), "the case never came up"


@pytest.mark.parametrize(
    "dtypes", [(torch.float32,), (torch.uint8, torch.int64, torch.bfloat16, torch.bool, torch.float64)]
)
def test_tensors_cross_together_and_arrive_as_they_were(dtypes: tuple[torch.dtype, ...], device: torch.device) -> None:
    given = [torch.arange(6).reshape(2, 3).T.to(dtype) for dtype in dtypes] + [torch.zeros(0, 2), torch.tensor(5)]
    with counting() as counts:
        moved = to_device(device, *given)
    assert (counts.waits, counts.transfers) == (0, 1)
    assert all(one.device.type == device.type for one in moved)
    with counting() as counts:
        back = to_host(*moved)
    assert (counts.waits, counts.transfers) == (1, 1)
    for before, after in zip(given, back, strict=True):
        assert before.dtype == after.dtype and torch.equal(before, after)
    assert all(one is other for one, other in zip(to_host(*given), given, strict=True))
    assert to_host() == []


def test_numbers_drawn_ahead_are_those_drawn_step_by_step(device: torch.device) -> None:
    def drawn(where: torch.device, ahead: int) -> list[Any]:
        generator = torch.Generator().manual_seed(3)
        draws = Draws(
            lambda: (torch.randint(9, (4,), generator=generator), torch.rand(2, generator=generator)), where, ahead
        )
        return [[numbers.tolist() for numbers in draws.next()] for _ in range(7)]

    assert drawn(device, 3) == drawn(torch.device("cpu"), 1)


def test_a_deadline_still_ends_a_run(device: torch.device) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch = watched(GCG(), device, steps=10_000, deadline=0.5)
    assert 0 < len(watch.marks) < 10_000
