"""MAC, GBDA, ARCA and what was added to GCG: update rules against transcripts worked out by hand, planted answers."""

import itertools

import pytest
import torch

from hardprompts import ClassifierPromptTuner, run_search
from hardprompts.methods import ARCA, GBDA, GCG, MAC, BeamSearch, PEZBank, PhraseBank
from hardprompts.methods.gbda import softmax_slope
from hardprompts.methods.gcg import _Buffer
from hardprompts.objectives import Evaluation, FeatureSimilarity
from hardprompts.prompts import PromptTemplate
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.testing import toy_backend, toy_language_model
from hardprompts.vocabulary import Vocabulary

BACKEND = toy_backend()
VOCABULARY = BACKEND.vocabulary


class ThreeTokens:
    """Tokens a, b and c; what is decoded is encoded to the same ids, but "a b", which is read as "c"."""

    def encode(self, text):
        return ["abc".index(word) for word in text.replace("a b", "c").split()]

    def decode(self, ids):
        return " ".join("abc"[i] for i in ids)


def three_tokens() -> Vocabulary:
    """Each token has a dimension of its own, so that a gradient at the embedding is the slopes of the tokens."""
    return Vocabulary(torch.eye(3), ThreeTokens(), torch.ones(3, dtype=torch.bool), (3,))


class Scripted:
    """Gradients that were written down beforehand, and a table of scores: prompt by prompt."""

    unit = "points"

    def __init__(self, gradients, points):
        self.gradients, self.points, self.seen = [torch.tensor(g) for g in gradients], points, []

    def __call__(self, embeddings, groups):
        self.seen.append(embeddings.detach().argmax(dim=2).tolist())
        slope = self.gradients[min(len(self.seen), len(self.gradients)) - 1]
        return Evaluation((embeddings * slope).sum(dim=(1, 2)))

    def score(self, ids, groups):
        return torch.tensor([self.points[tuple(row)] for row in ids.tolist()])


def bound(objective, vocabulary: Vocabulary, rows: int = 1) -> BoundObjective:
    return BoundObjective(objective, objective, vocabulary, PromptTemplate(), torch.zeros(rows, dtype=torch.long))


def first(steps, count: int) -> list[Candidates]:
    return list(itertools.islice(steps, count))


def task(text: str) -> FeatureSimilarity:
    return FeatureSimilarity(BACKEND.text_encoder, BACKEND.encode_texts([text])[:, None], torch.ones(1, 1))


# --- GCG ----------------------------------------------------------------------------------

POINTS = {pair: 0.1 * place for place, pair in enumerate(itertools.product(range(3), repeat=2))}


def test_the_filter_goes_on_from_the_best_swap_that_survives_the_round_trip() -> None:
    # "a b" is the best swap of "a a" by points, but is read as "c"; "a c" and "b a" follow.
    points = {**POINTS, (0, 1): 9.0, (0, 2): 5.0, (1, 0): 2.0, (2, 0): 1.0}
    for filter_ids, expected in ((True, [0, 2]), (False, [0, 1])):
        objective = Scripted([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]], points)
        search = GCG(search_width=200, top_k=3, filter_ids=filter_ids)
        start, generator = torch.tensor([[0, 0]]), torch.Generator().manual_seed(0)
        first(search.steps(bound(objective, three_tokens()), three_tokens(), start, generator), 2)
        assert objective.seen == [[[0, 0]], [expected]]


def test_a_restart_without_a_swap_that_survives_stays_where_it_is() -> None:
    class Forgetful(ThreeTokens):
        def encode(self, text):
            return [2] if text != "a a" else [0, 0]

    vocabulary = Vocabulary(torch.eye(3), Forgetful(), torch.tensor([False, True, True]), (3,))
    objective = Scripted([[[0.0] * 3] * 2], POINTS)
    start, generator = torch.tensor([[0, 0]]), torch.Generator().manual_seed(0)
    first(GCG(search_width=9, top_k=2).steps(bound(objective, vocabulary), vocabulary, start, generator), 3)
    assert objective.seen == [[[0, 0]]] * 3


def test_the_buffer_goes_on_from_the_best_prompt_it_remembers() -> None:
    # Without one, the walk takes the best swap though it is worse; with one, it returns to what was best.
    points = dict.fromkeys(POINTS, 0.0) | {(2, 2): 9.0}
    zero = [[[0.0] * 3] * 2]
    start = torch.tensor([[2, 2]])
    for size, stays in ((0, False), (1, True), (3, True)):
        objective = Scripted(zero, points)
        # Only swaps to "a" and "b", so that each is a step down.
        vocabulary = Vocabulary(torch.eye(3), ThreeTokens(), torch.tensor([True, True, False]), (3,))
        search = GCG(search_width=4, top_k=2, buffer_size=size)
        first(search.steps(bound(objective, vocabulary), vocabulary, start, torch.Generator().manual_seed(0)), 3)
        assert (objective.seen == [[[2, 2]]] * 3) is stays


def test_the_buffer_forgets_its_worst() -> None:
    buffer = _Buffer(torch.tensor([[[0], [1]], [[2], [3]]]), torch.tensor([[1.0, 2.0], [5.0, 4.0]]))
    buffer.offer(torch.tensor([[7], [8]]), torch.tensor([3.0, 3.0]))
    assert buffer.prompts.tolist() == [[[7], [1]], [[2], [3]]] and buffer.scores.tolist() == [[3.0, 2.0], [5.0, 4.0]]
    assert buffer.best().tolist() == [[7], [2]]


# --- MAC ----------------------------------------------------------------------------------


def test_momentum_is_the_papers_update_of_unit_slopes() -> None:
    """By hand, with momentum 0.5: g1 = (3, 0, -4) -> (0.6, 0, -0.8); g2 = (0, -2, 0) -> (0, -1, 0);
    m2 = (0.3, -0.5, -0.4), whose steepest descent is the second token; g3 = (0, 0, 1): m3 = (0.15, -0.25, 0.3).
    Alone, g3 would take the first or second token; a plain sum of raw gradients after g2, (3, -2, -4), the third.
    """
    seen = []
    gcg = GCG(search_width=1, top_k=1)

    class Watched(GCG):
        def steps_along(self, direction, *rest):
            def watched(slopes):
                seen.append(direction(slopes)[0, 0].tolist())
                return torch.tensor(seen[-1]).reshape(1, 1, 3)

            return gcg.steps_along(watched, *rest)

    gradients = [[[3.0, 0.0, -4.0]], [[0.0, -2.0, 0.0]], [[0.0, 0.0, 1.0]]]
    objective = Scripted(gradients, {(i,): 0.0 for i in range(3)})
    start, generator = torch.tensor([[0]]), torch.Generator().manual_seed(0)
    found = first(
        MAC(0.5, Watched()).steps(bound(objective, three_tokens()), three_tokens(), start, generator), 3
    )  # fmt: skip
    expected = [[0.6, 0.0, -0.8], [0.3, -0.5, -0.4], [0.15, -0.25, 0.3]]
    assert torch.allclose(torch.tensor(seen), torch.tensor(expected), atol=1e-6)
    assert [candidates.ids.tolist() for candidates in found] == [[[2]], [[1]], [[1]]]


def test_without_momentum_it_is_gcg() -> None:
    objective, start = task("red house near river"), VOCABULARY.sample((4, 4), torch.Generator().manual_seed(1))
    runs = [
        run_search(search, objective, objective, VOCABULARY, start, max_steps=20, seed=3)[0]
        for search in (GCG(), MAC(momentum=0.0))
    ]
    assert runs[0].candidates == runs[1].candidates


# --- GBDA ---------------------------------------------------------------------------------


def test_the_gradient_of_a_softmax_is_that_of_finite_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, slope = torch.randn(2, 3, 5, generator=draw).double(), torch.randn(2, 3, 5, generator=draw).double()
    found = softmax_slope(logits.softmax(dim=2), slope)
    for place in itertools.product(range(2), range(3), range(5)):
        moved = torch.zeros_like(logits)
        moved[place] = 1e-6
        change = ((logits + moved).softmax(dim=2) - (logits - moved).softmax(dim=2)) * slope / 2e-6
        assert float(found[place]) == pytest.approx(float(change.sum()), abs=1e-6)


def test_the_first_step_moves_the_logits_as_adam_does_along_the_mean_gradient() -> None:
    """Adam's first step is the rate times the sign of the gradient, so that the signs can be told by hand: the
    objective rewards b and punishes c, so that after a step b is likelier, and c less likely, by 2 * 0.3 nats."""
    vocabulary = three_tokens()
    objective = Scripted([[[0.0, -1.0, 1.0]]], {(i,): 0.0 for i in range(3)})
    search = GBDA(learning_rate=0.3, samples=4000)
    generator = torch.Generator().manual_seed(0)
    before, after = (
        torch.bincount(candidates.ids.flatten(), minlength=3).double() / 4000
        for candidates in first(
            search.steps(bound(objective, vocabulary), vocabulary, torch.tensor([[0]]), generator), 2
        )
    )
    assert torch.allclose(before, torch.tensor([0.5, 0.25, 0.25]).double(), atol=0.03)
    gain = (after[1] / after[2]).log() - (before[1] / before[2]).log()
    assert float(gain) == pytest.approx(0.6, abs=0.15)


def test_samples_are_drawn_in_parts_where_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, start = task("red house"), VOCABULARY.sample((3, 2), torch.Generator().manual_seed(0))
    sizes = set()

    def watched(self, *arguments, wrapped=GBDA._sampled):
        sizes.add(arguments[1])
        return wrapped(self, *arguments)

    monkeypatch.setattr(GBDA, "_sampled", watched)
    monkeypatch.setattr("hardprompts.methods.gbda.MAX_TABLE_ENTRIES", 3 * 2 * len(VOCABULARY.allowed_ids) * 4)
    (result,) = run_search(GBDA(samples=10), objective, objective, VOCABULARY, start, max_steps=60, seed=0)
    assert sizes == {4, 2} and result.best.text == "red house"


def test_the_distribution_settles_on_the_planted_prompt() -> None:
    objective, start = task("house"), VOCABULARY.sample((4, 1), torch.Generator().manual_seed(0))
    steps = GBDA().steps(
        BoundObjective(objective, objective, VOCABULARY, PromptTemplate(), torch.zeros(4, dtype=torch.long)),
        VOCABULARY, start, torch.Generator().manual_seed(0),
    )  # fmt: skip
    shares = []
    for candidates in first(steps, 100):
        texts = [VOCABULARY.decode(row) for row in candidates.ids.tolist()]
        shares.append(texts.count("house") / len(texts))
    assert shares[0] < 0.2 and shares[-1] > 0.7


# --- ARCA ---------------------------------------------------------------------------------


def test_the_gradient_is_averaged_over_random_tokens_at_one_place() -> None:
    """An objective whose gradient depends on the token: by hand, the slopes of b and c at "a" point to c, and their
    mean over all tokens to b, which is the best."""
    slopes = torch.tensor([[0.0, -1.0, -2.0], [0.0, -9.0, 0.0], [0.0, -9.0, 0.0]])  # (token that stands there, token)
    points = {(0,): 0.0, (1,): 2.0, (2,): 1.0}

    class Depending(Scripted):
        def __call__(self, embeddings, groups):
            at = embeddings.detach().argmax(dim=2)  # (batch, 1)
            self.seen.append(at.flatten().tolist())
            return Evaluation((embeddings * slopes[at]).sum(dim=(1, 2)))

    vocabulary = three_tokens()
    for averaged, chosen in ((1, None), (64, 1)):
        objective = Depending([], points)
        search = ARCA(averaged=averaged, candidates=1)
        object.__setattr__(search, "exact", lambda vocabulary: False)
        start, generator = torch.tensor([[0]]), torch.Generator().manual_seed(0)
        (candidates,) = first(search.steps(bound(objective, vocabulary), vocabulary, start, generator), 1)
        assert len(objective.seen[0]) == averaged
        if chosen is not None:
            assert candidates.ids.tolist() == [[chosen]] and set(objective.seen[0]) == {0, 1, 2}


def test_it_goes_from_place_to_place_and_never_down() -> None:
    objective, start = task("red house near river"), VOCABULARY.sample((3, 4), torch.Generator().manual_seed(2))
    search = ARCA(averaged=4, candidates=8)
    assert not search.exact(VOCABULARY)
    runner = BoundObjective(objective, objective, VOCABULARY, PromptTemplate(), torch.zeros(3, dtype=torch.long))
    best = objective.score(start, torch.zeros(3, dtype=torch.long))
    steps = first(search.steps(runner, VOCABULARY, start, torch.Generator().manual_seed(0)), 24)
    for number, candidates in enumerate(steps):
        assert len(candidates.ids) == 3 * 8
        kept = candidates.ids.reshape(3, 8, 4).clone()
        kept[:, :, number % 4] = 0
        assert bool((kept == kept[:, :1]).all())  # one place changes
        best = torch.maximum(best, candidates.scores.reshape(3, 8).max(dim=1).values)
    (result,) = run_search(search, objective, objective, VOCABULARY, start, max_steps=24, seed=0)
    assert result.best.score == pytest.approx(float(best.max()), abs=1e-5)


def test_a_small_vocabulary_is_tried_out_until_no_place_can_be_bettered() -> None:
    objective, start = task("red house near river"), VOCABULARY.sample((2, 4), torch.Generator().manual_seed(2))
    assert ARCA().exact(VOCABULARY)
    (result,) = run_search(ARCA(), objective, objective, VOCABULARY, start, seed=0)
    assert result.stop_reason == "converged"
    for place, token in itertools.product(range(4), VOCABULARY.allowed_ids.tolist()):
        changed = list(result.best.token_ids)
        changed[place] = token
        own = float(objective.score(torch.tensor([changed]), torch.zeros(1, dtype=torch.long)))
        assert own <= result.best.score + 1e-5


# --- language models ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "search",
    [
        MAC(search=GCG(search_width=8)),
        GBDA(samples=2),
        ARCA(averaged=4, candidates=4),
        GCG(search_width=8, buffer_size=3),
        BeamSearch(beams=2, candidates=4, probes=2),
        PEZBank(),
        PhraseBank(mode="fast", max_phrases=2),
    ],
    ids=lambda search: type(search).__name__,
)
@pytest.mark.parametrize("kind", ["causal", "masked", "seq2seq"])
def test_they_tune_prompts_of_language_models(search, kind: str) -> None:
    texts = ["red house", "green tree", "blue river", "old boat", "cold snow", "small cat"] * 2
    labels = ["sun", "moon"] * 6
    options = {"num_tokens": 3, "restarts": 2, "max_steps": 4, "random_state": 0, "progress": False}
    tuner = ClassifierPromptTuner(toy_language_model(kind), method=search, **options)
    prompt = tuner.fit(texts, labels).hard_prompt_
    vocabulary = tuner.backend.vocabulary
    assert vocabulary.encode(prompt.text) == list(prompt.token_ids) and prompt.method == type(search).__name__


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: GCG(buffer_size=-1), "buffer_size"),
        (lambda: MAC(momentum=1.0), "momentum"),
        (lambda: GBDA(temperature=0.0), "temperature"),
        (lambda: GBDA(initial_probability=1.0), "initial_probability"),
        (lambda: ARCA(averaged=0), "averaged"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(method, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method()
