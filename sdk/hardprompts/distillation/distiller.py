"""PromptDistiller: long prompts and soft prompts become short hard prompts, and a number says how faithful they are."""

import dataclasses
import functools
from collections.abc import Sequence

import torch
from typing_extensions import Unpack

from hardprompts.allowance import Allowance
from hardprompts.diffusion.features import backend_of
from hardprompts.distillation.faithfulness import (
    DistilledPrompt,
    Faithfulness,
    FaithfulnessMeasurement,
    lost_phrases,
)
from hardprompts.distillation.features import match_features
from hardprompts.distillation.matching import Match
from hardprompts.distillation.options import (
    ENDED,
    DistillationArguments,
    DistillationOptions,
    Quantity,
    TaskArguments,
)
from hardprompts.distillation.originals import Original, OriginalInput, phrases_of
from hardprompts.distillation.quantities import Matches, matches_of, mean_match, windows
from hardprompts.distillation.starts import (
    BASELINES,
    Nearest,
    Problem,
    given_starts,
    padded,
    select_words,
    starts,
)
from hardprompts.encoders import Backend, ConditioningEncoder, join_backends, opened_backend, own_texts, several
from hardprompts.errors import SearchError
from hardprompts.methods.build_refine import BuildRefine
from hardprompts.methods.pez_refine import PEZRefine
from hardprompts.methods.selection import Selection
from hardprompts.objectives import check_length, check_template
from hardprompts.prompts import SLOT, Candidate
from hardprompts.search.protocol import Search, SearchResult
from hardprompts.search.registry import (
    DEFAULT_METHOD,
    language_model_search,
    method_name,
    method_settings,
    search_method,
)
from hardprompts.search.results import hard_prompt_of, rescored
from hardprompts.search.rows import Ids
from hardprompts.vocabulary import Vocabulary

#: What a token must add where a soft prompt is decoded, as a share of the spread of the score of random prompts.
TOKEN_COST = 0.05

#: For match="noise": text-encoder passes of the exploration, prompts kept from it, candidates per slot of the polish. A
#: pass of the denoiser costs some fifty of the text encoder's, and prompts with the same features are most of the way
#: to the same pictures.
EXPLORATION, EXPLORED, POLISH_CANDIDATES = 4_000, 8, 16


class PromptDistiller:
    """Turns long prompts and soft prompts into short hard prompts that make a model do the same.

    Args:
        backend: a model's name for `load_backend`, an open `Backend`, a `ConditioningEncoder` (a `NoisePredictor` is
            one), or several models, which then agree on one prompt.
        method: a name from `hardprompts.search_methods()`, a method with its own hyperparameters, or a baseline:
            "nearest" and "nearest-l2" decode a soft prompt to the nearest tokens, "selection" takes the best words
            of a long prompt.
        device, dtype: for models that are given by name; see `load_backend`.

    Raises:
        UnknownName, BackendError: see `load_backend`.

    Source: distillation of texts, PEZ, arXiv 2302.03668, section 4.4. Decoding a soft prompt by what it does, and
    faithfulness, are this project's.
    """

    def __init__(
        self,
        backend: "str | Backend | ConditioningEncoder | Sequence[str | Backend]" = "emoji",
        method: str | Search = DEFAULT_METHOD,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        def opened(model: str | Backend) -> Backend:
            return opened_backend(model, device=device, dtype=dtype)

        if isinstance(backend, ConditioningEncoder):
            self.backend = backend_of(backend)
        else:
            self.backend = join_backends([opened(model) for model in several(backend)])
        self.method, self.method_settings = method_name(method), method_settings(method)
        self.search: Search
        if isinstance(method, str) and method in BASELINES:
            self.search = BASELINES[method]
        else:
            self.search = search_method(method)
            if isinstance(method, str) and self.backend.language_model is not None:
                self.search = language_model_search(self.search)

    def distill(
        self,
        original: OriginalInput,
        num_tokens: int | None = None,
        ratio: float | None = None,
        templates: str | Sequence[str] = SLOT,
        *,
        match: Quantity = "auto",
        **options: Unpack[DistillationArguments],
    ) -> DistilledPrompt:
        """The hard prompt that makes the model do what a long or a soft prompt does, and its faithfulness.

        Args:
            original: a prompt (`str`, or a `HardPrompt`, of which the whole text is taken), a `SoftPrompt`, the
                `Path` of a soft prompt's file, or a bare (tokens, dim) tensor of the model's width. A `str` is
                always a prompt, never a path; one with the markup of a UI is read as the option `markup` says.
            num_tokens, ratio, templates, match, options: see `DistillationOptions`.

        Deadline and evaluations are for the whole call. Reading a long prompt takes up to a half of them, the choice
        of its best words, from which the search then starts, up to a third of what is left; the default's exploration
        for "noise" up to a third of the time, and its passes of the text encoder, 4,000 at most, come on top of the
        evaluations. A seventh of the time, and up to a quarter of the evaluations, are kept for what is measured of the
        prompt; what there is no room for then is named in its `left_out`.

        Returns:
            The prompt. `faithfulness` says what share of the original's effect it keeps, in what was matched and in
            what was not. Its score is 1 less the distance that was matched: for "features" the cosine similarity.
            Of a long prompt, `lost` are the phrases that it does not say. A text that is longer than the context
            is taken window by window; its features are the mean over the windows, weighted with their tokens.

        Raises:
            TypeError: an option of an unknown name; the nearest known one is named.
            ValueError: an empty original, one with NaN, an option out of range, or one that is for another `match`.
            BackendError: a soft prompt of another model, or the model lacks what is to be matched.
            FileFormatError: the file holds no soft prompt.
            TemplateError: a template has no slot, or several, the context has too little room, or the model reads it
                differently from its tokens.
            VocabularyError: no token is left to search over.
            SearchError: no prompt survives the round trip in every template.
            NonFiniteError: the model returns NaN or infinity.
        """
        chosen = DistillationOptions.of(
            "PromptDistiller.distill", num_tokens=num_tokens, ratio=ratio, templates=templates, match=match, **options
        )
        allowance = chosen.allowance()
        return self._distill([self._original(original, chosen)], chosen, allowance)[0]

    def distill_each(
        self, originals: Sequence[OriginalInput], *, batch_tasks: int = 16, **options: Unpack[TaskArguments]
    ) -> list[DistilledPrompt]:
        """One hard prompt for each original; soft prompts are searched in batches of `batch_tasks`.

        Takes the options of `distill`; deadline and evaluations are for the whole call. Raises what it raises.
        """
        if batch_tasks < 1:
            raise ValueError(f"batch_tasks must be at least 1, got {batch_tasks}")
        chosen = DistillationOptions.of("PromptDistiller.distill_each", **options)
        allowance = chosen.allowance()
        batches: list[list[Original]] = []
        for original in (self._original(given, chosen) for given in originals):
            last = batches[-1] if batches else []
            together = chosen.match != "noise" and original.text is None and 0 < len(last) < batch_tasks
            if together and chosen.tokens_for(original) == chosen.tokens_for(last[0]):
                last.append(original)
            else:
                batches.append([original])
        found: list[DistilledPrompt] = []
        for number, batch in enumerate(batches):
            distill = functools.partial(self._distill, batch, chosen, allowance.share(len(batches) - number))
            found += allowance.insist(distill) if found else distill()  # what is found must not be lost
        return found

    def faithfulness(self, text: str, original: OriginalInput, **options: Unpack[TaskArguments]) -> Faithfulness:
        """How faithful any text is to an original, as that of `distill`, whose options it takes.

        With a deadline, or a limit of evaluations, it is measured in fewer held-out templates.

        Raises: as `distill`.
        """
        chosen = DistillationOptions.of("PromptDistiller.faithfulness", **options)
        own = self._original(original, chosen)
        allowance = chosen.allowance()
        matches = matches_of(self.backend, [own], chosen, 0 if chosen.seed is None else chosen.seed, allowance)
        measurement = FaithfulnessMeasurement(
            text, matches, 0, matches.random_texts(self.backend, chosen.tokens_for(own))
        )
        matched = measurement.matched(Allowance())
        assert matched is not None
        return Faithfulness(matched, measurement.held_out(allowance))

    def _original(self, given: OriginalInput, options: DistillationOptions) -> Original:
        of_language = options.markup == "auto" and self.backend.language_model is not None
        markup = "none" if of_language else options.markup
        return Original.of(given, self.backend.vocabulary, self.backend.name, markup)

    def _words(self, originals: Sequence[Original], options: DistillationOptions) -> Vocabulary:
        """What may be used: with words of several tokens that the originals have, as a whole."""
        words = self.backend.vocabulary.narrowed(options.vocabulary, options.banned)
        if options.vocabulary is not None:
            return words
        texts = (options.initial_prompt, *(original.text for original in originals))
        return words.with_words(text for text in texts if text is not None)

    def _score_per_token(
        self, originals: Sequence[Original], options: DistillationOptions, matches: Matches, allowance: Allowance
    ) -> float:
        """What a token must add, in units of the score; a baseline is measured as it is."""
        share = options.token_cost
        if share is None:
            share = TOKEN_COST if all(original.text is None for original in originals) else 0.0
        if not share or isinstance(self.search, Nearest | Selection):
            return 0.0
        return share * matches.spread(self.backend, len(originals), allowance)

    def _distill(
        self, originals: Sequence[Original], options: DistillationOptions, allowance: Allowance
    ) -> list[DistilledPrompt]:
        """One prompt for each original, all searched in one batch."""
        options = options.seeded()
        assert options.seed is not None
        words = self._words(originals, options)
        matches = matches_of(self.backend, originals, options, options.seed, allowance)
        own = isinstance(self.search, Nearest)
        num_tokens = max(map(len, originals)) if own else options.tokens_for(originals[0])
        check_length(num_tokens, matches.followed.free_tokens(), matches.followed.template, self.backend.name)
        if self.backend.language_model is None:
            for template in options.slots:
                check_template(self.backend.text_encoder, template, self.backend.name)
        cost = self._score_per_token(originals, options, matches, allowance)
        problem = Problem(self.backend, tuple(originals), matches, words, num_tokens, options, cost, self.method)
        measurement = FaithfulnessMeasurement("", matches, 0, matches.random_texts(self.backend, num_tokens))
        phrases = sum(len(phrases_of(original.text)) for original in originals if original.text is not None)
        kept = len(originals) * (options.top_k + num_tokens + measurement.passes) + phrases
        results = self._results(problem, allowance.keeping(kept))
        prompts = [
            self._prompt(
                dataclasses.replace(measurement, task=task), result, problem, allowance.share(len(results) - task)
            )
            for task, result in enumerate(results)
        ]
        return [dataclasses.replace(prompt, evaluations=allowance.evaluations) for prompt in prompts]

    # --- search ---------------------------------------------------------------------------

    def _results(self, problem: Problem, allowance: Allowance) -> list[SearchResult]:
        """What is found for each original, with the choice of a long prompt's own words that came first."""
        selected = select_words(problem, self.search, allowance)
        if isinstance(self.search, Selection):
            assert selected is not None
            return [selected]
        tasks = range(len(problem.originals))
        given = [given_starts(problem, self.search, task, selected) for task in tasks]
        first = [starts(problem, self.search, task, own) for task, own in enumerate(given)]
        search = self.search
        if problem.matches.kind == "noise" and isinstance(search, BuildRefine):
            search = search.otherwise
        if problem.matches.kind == "noise" and isinstance(search, PEZRefine):
            run = functools.partial(self._polished, problem, search, given, first, allowance)
        else:
            run = functools.partial(problem.run, search, first, problem.options, allowance)
        results = run() if selected is None else allowance.insist(run)  # what was selected must not be lost
        return results if selected is None else [_together(result, selected) for result in results]

    def _polished(
        self,
        problem: Problem,
        search: PEZRefine,
        given: Sequence[Sequence[Ids]],
        first: Sequence[Sequence[Ids]],
        allowance: Allowance,
    ) -> list[SearchResult]:
        """Prompts that have the features of the originals, polished by what the denoiser predicts with them."""
        alike = mean_match([
            match_features(self.backend, windows(self.backend, problem.originals, template), template)
            for template in problem.options.slots
        ])  # fmt: skip
        more = EXPLORATION * len(problem.originals)
        allowance.grant(more)
        options = dataclasses.replace(problem.options, top_k=EXPLORED)
        explored = problem.run(search, first, options, allowance.share(3, more), alike)
        allowance.grant(min(0, explored[0].evaluations - more))
        polish = dataclasses.replace(
            search.refine, candidates_per_slot=min(POLISH_CANDIDATES, search.refine.candidates_per_slot)
        )
        # What the original gave has other features, and may yet do more of what is followed: one start is of each kind.
        kinds = [
            [[one.token_ids for one in result.candidates], list(own)]
            for result, own in zip(explored, given, strict=True)
        ]
        followed = problem.matches.followed
        found = [
            padded(
                list(dict.fromkeys(_best(rows, followed, task, problem.words) for rows in both if rows)),
                problem.num_tokens,
            )
            for task, both in enumerate(kinds)
        ]
        allowance.spend(sum(len(rows) for both in kinds for rows in both))
        results = allowance.insist(lambda: problem.run(polish, found, problem.options, allowance))
        return [_together(result, explored[0]) for result in results]

    # --- results --------------------------------------------------------------------------

    def _prompt(
        self, measurement: FaithfulnessMeasurement, result: SearchResult, problem: Problem, allowance: Allowance
    ) -> DistilledPrompt:
        """The result as people get it, scored on its text by the model's own tokenizer, and judged."""
        task = measurement.task
        original, matches, options = problem.originals[task], problem.matches, problem.options
        vocabulary, followed = self.backend.vocabulary, matches.followed

        def scores_of(texts: Sequence[str]) -> list[float]:
            return [1 - distance for distance in followed.distances(texts, task)]

        found = self._surviving(result, options)
        measurement = dataclasses.replace(measurement, text=found[0].text)
        matched = measurement.matched(allowance)
        candidates = rescored(found, scores_of, allowance, size=matches.texts_at_once)
        faithfulness = None if matched is None else Faithfulness(matched, measurement.held_out(allowance))
        prompt = hard_prompt_of(
            result,
            candidates,
            vocabulary=vocabulary,
            template=followed.template,
            model=self.backend.name,
            method=self.method,
            method_settings=self.method_settings,
            allowance=allowance,
            scores_of=lambda rows: scores_of([vocabulary.decode(row) for row in rows]),
            rows_at_once=matches.texts_at_once,
            settings={
                "original": original.name,
                "original_tokens": len(original),
                "match": matches.kind,
                "templates": [one.text for one in options.slots],
                "restarts": options.starts,
                **({} if original.markup is None else {"markup": original.markup.to_dict()}),
                **({"texts": own} if (own := own_texts(self.backend.noise_predictor)) else {}),
            },
            kind=DistilledPrompt,
            score_unit=matches.score_unit,
            faithfulness=faithfulness,
        )
        if original.text is None or matches.kind == "outputs":
            return prompt
        lost = lost_phrases(self.backend, original.text, prompt.text, followed.template, allowance)
        return dataclasses.replace(
            prompt,
            lost=lost,
            left_out=tuple(allowance.left_out),
            stop_reason=allowance.stopped or prompt.stop_reason,
        )

    def _surviving(self, result: SearchResult, options: DistillationOptions) -> list[Candidate]:
        """The candidates whose text is encoded to their ids in the other templates too.

        Raises:
            SearchError: there is none.
        """
        survives, others = self.backend.vocabulary.survives_round_trip, options.slots[1:]
        found = [one for one in result.candidates if all(survives(one.token_ids, template) for template in others)]
        if not found:
            raise SearchError(
                f"none of the {len(result.candidates)} best prompts survives the round trip in every template of "
                f"{[one.text for one in options.slots]}; put spaces around their slots, or give one template"
            )
        return found


def _together(result: SearchResult, earlier: SearchResult) -> SearchResult:
    """The result of a search with the steps, time and evaluations of the one before it."""
    return dataclasses.replace(
        result,
        steps=result.steps + earlier.steps,
        seconds=result.seconds + earlier.seconds,
        evaluations=result.evaluations + earlier.evaluations,
        stop_reason=earlier.stop_reason if earlier.stop_reason in ENDED else result.stop_reason,
    )


def _best(rows: Sequence[Ids], followed: Match, task: int, vocabulary: Vocabulary) -> Ids:
    """The best of some prompts of a task."""
    distances = followed.distances([vocabulary.decode(row) for row in rows], task)
    return rows[distances.index(min(distances))]
