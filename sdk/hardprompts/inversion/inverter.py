"""PromptInverter: images become a prompt."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import Unpack

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend, join_backends, normalize, opened_backend, several
from hardprompts.errors import ImageError, quoted, warn_user
from hardprompts.images import ImageInput
from hardprompts.inversion.captioning import Captioner, captions_of, opened_captioner
from hardprompts.inversion.lengths import best_by_length
from hardprompts.inversion.options import InversionArguments, InversionOptions
from hardprompts.inversion.proposals import (
    Beginning,
    ProposerInput,
    Starts,
    ask,
    begin_with,
    names_of,
    opened_proposers,
    usable_ids,
    warn_of_unusable,
    weighed_by_proposals,
)
from hardprompts.inversion.readability import TextLikelihood, open_likelihood, pareto_front, readable_score
from hardprompts.inversion.required import RequiredWords
from hardprompts.inversion.targets import Target, similarity_with, spread_of, targets_of
from hardprompts.inversion.views import ViewFeatures, each_alone
from hardprompts.inversion.words import chosen_words
from hardprompts.methods.banks import encode_beginning
from hardprompts.methods.phrase_bank import TaskPreparation
from hardprompts.objectives import FeatureSimilarity, JudgedSimilarity, Score, check_length, check_template
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate, TradeOff
from hardprompts.search.protocol import Search, SearchResult
from hardprompts.search.registry import DEFAULT_METHOD, method_name, method_settings, search_method
from hardprompts.search.results import hard_prompt_of, rescored
from hardprompts.search.rows import NO_TOKEN, random_starts
from hardprompts.search.seeds import Stream, drawn_seed
from hardprompts.vocabulary import Vocabulary

#: Candidates of a search that similarity, length and fluency are weighed among.
PARETO_POOL = 256

#: One in so many parts of the time that is left may go into looking at the images, and one into their captions.
LOOKING_SHARE = 3


class PromptInverter:
    """Finds the prompt that says what images show, in the eyes of a model that compares images with text.

    Args:
        backend: a model's name for `load_backend`, an open `Backend`, or several of either, which
            then agree on one prompt (their tokenizers must be the same).
        method: a name from `hardprompts.search_methods()`, or a method with its own hyperparameters,
            such as `PEZ(learning_rate=0.05)`.
        device, dtype: for models that are given by name; see `load_backend`.
        judge: a second model that picks the winner among what the search meets, so that the
            prompt does not overfit the first. Any tokenizer.
        prior: a causal language model, by name or open, or any function of texts that returns their
            log-likelihoods: prompts that it finds likely are preferred, see `prior_weight`. It reads text, so its
            tokenizer may be any, and it is asked for every prompt that is scored: a small one will do.
        captioner: the name of an image-to-text model for `load_captioner`, such as
            "transformers:Salesforce/blip-image-captioning-base", or any function from RGB images to a caption each.
            Half of the restarts begin with the caption. Of several images that share a prompt, the first is captioned.
        proposers: what writes whole texts for the images, such as "decoder:FOLDER", "auto" for what comes with the
            model, any object with the method of `Proposer`, or several of these. What they write is scored exactly;
            half of the restarts begin with the best, and the default method goes on from it.

    Raises:
        UnknownName, BackendError: see `load_backend` and `load_captioner`; or the prior is not a causal language model.

    Source: PEZ, arXiv 2302.03668, section 4.
    """

    def __init__(
        self,
        backend: "str | Backend | Sequence[str | Backend]" = "emoji",
        method: str | Search = DEFAULT_METHOD,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        judge: "str | Backend | None" = None,
        prior: "str | Backend | TextLikelihood | None" = None,
        captioner: str | Captioner | None = None,
        proposers: "ProposerInput | None" = None,
    ) -> None:
        def opened(model: str | Backend) -> Backend:
            return opened_backend(model, device=device, dtype=dtype)

        self.backend = join_backends([opened(model) for model in several(backend)])
        self.judge = None if judge is None else opened(judge)
        self.prior = None if prior is None else open_likelihood(prior, device=device, dtype=dtype)
        self.captioner = None if captioner is None else opened_captioner(captioner, device=device, dtype=dtype)
        self.proposers = opened_proposers(proposers, self.backend)
        self._proposers_used = {"proposers": names_of(proposers)} if self.proposers else {}
        self.search = search_method(method)
        self.method, self.method_settings = method_name(method), method_settings(method)

    def invert(
        self,
        images: "ImageInput | Sequence[ImageInput] | Tensor",
        num_tokens: int = InversionOptions.num_tokens,
        template: str = InversionOptions.template,
        **options: Unpack[InversionArguments],
    ) -> HardPrompt:
        """The prompt of one image, or one prompt for what several images share (a style, say).

        Args:
            images: a path, PIL image, numpy array (HWC, BHWC; uint8, or float in [0, 1]), torch tensor
                (CHW, BCHW; likewise), a list of these; or features of the model, (features,) or
                (images, features).
            num_tokens, template, options: see `InversionOptions`.

        Returns:
            The prompt. Its score is the similarity with the images as they are, of the text as the
            model's own tokenizer reads it; candidates are in the order of the search's own score.

        Raises:
            ImageError: an image is unreadable, or there is none.
            TemplateError: the template has no slot, or several, or leaves too little room, or the model reads it
                differently from its tokens ("<|endoftext|>" in it).
            VocabularyError: no token is left to search over, or the model has no tokens for a required word.
            SearchError: no prompt survives the round trip.
            NonFiniteError: the features, or the likelihoods of the prior, are NaN or infinite.
            TypeError, ValueError: an option that there is not, or that is out of range.
        """
        chosen = self._chosen("PromptInverter.invert", num_tokens=num_tokens, template=template, **options)
        return self._invert([images], chosen, chosen.allowance())[0]

    def invert_each(
        self,
        images: "Sequence[ImageInput] | Tensor",
        num_tokens: int = InversionOptions.num_tokens,
        template: str = InversionOptions.template,
        *,
        batch_size: int = 16,
        **options: Unpack[InversionArguments],
    ) -> list[HardPrompt]:
        """One prompt for each image, searched in batches of `batch_size` images.

        Takes the options of `invert`; a deadline is for the whole call, `max_evaluations` are for each batch. However
        short the deadline, each image is looked at, and one start is scored for it.
        Raises what `invert` raises.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        chosen = self._chosen("PromptInverter.invert_each", num_tokens=num_tokens, template=template, **options)
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        if not batches:
            raise ImageError("no images; give at least one")
        whole = dataclasses.replace(chosen, max_evaluations=None).allowance()
        found: list[HardPrompt] = []
        for number, batch in enumerate(batches):
            own = whole.share(len(batches) - number, chosen.max_evaluations)
            invert = functools.partial(self._invert, list(batch), chosen, own)
            found += whole.insist(invert) if found else invert()  # what is found must not be lost
        return found

    def score(self, text: str, images: "ImageInput | Sequence[ImageInput] | Tensor") -> float:
        """The mean cosine similarity of a text with images, in [-1, 1]."""
        features = ViewFeatures.of(images, [self.backend]).of_models[0][:, 0]
        return float((self.backend.encode_texts([text]) @ features.T).mean())

    def _chosen(self, door: str, **options: Any) -> InversionOptions:
        chosen = InversionOptions.of(door, **options)
        if self.prior is None and chosen.prior_weight != InversionOptions.prior_weight:
            raise ValueError(
                f"prior_weight = {chosen.prior_weight} is of no use without a prior; give PromptInverter(prior=...)"
            )
        if chosen.fast and not self._asks(chosen):
            raise ValueError(
                "fast=True returns what proposers write, and there are none here; give PromptInverter(proposers=...), "
                "no initial_prompt and no method that looks for what fits least"
            )
        return chosen.seeded()

    def _asks(self, options: InversionOptions) -> bool:
        """Whether the proposers are asked: what they write is not what fits least, nor begins with a given text."""
        return bool(self.proposers) and options.initial_prompt is None and not self._opposed

    # --- the search -----------------------------------------------------------------------

    def _invert(self, tasks: Sequence[Any], options: InversionOptions, allowance: Allowance) -> list[HardPrompt]:
        """One prompt for each task, all searched in one batch."""
        slot, seed = PromptTemplate(options.template), drawn_seed(options.seed)
        models = [self.backend] if self.judge is None else [self.backend, self.judge]
        captioned = self.captioner is not None and options.caption is None and options.initial_prompt is None
        look = functools.partial(ViewFeatures.of, models=models, views=options.looks, seed=seed, picture=captioned)
        unlike = None if options.unlike is None else look(options.unlike, allowance=allowance.share(LOOKING_SHARE))
        time = allowance.share(LOOKING_SHARE)
        seen = each_alone(tasks, models) if options.fast and not captioned and options.deadline is None else None
        seen = seen or [look(task, allowance=time.share(len(tasks) - number)) for number, task in enumerate(tasks)]
        captions = (
            _captions(self.captioner, seen, allowance)
            if captioned and self.captioner
            else [options.caption] * len(tasks)
        )
        whole_phrases = isinstance(self.search, TaskPreparation)
        targets = targets_of(models, seen, unlike, options)
        aims = [[target.opposite for target in own] for own in targets] if self._opposed else targets
        texts = self._texts(aims[0], options, seed, allowance)
        known = [*captions, *itertools.chain.from_iterable(texts)]
        words = chosen_words(self.backend.vocabulary, options, known, whole_phrases=whole_phrases)
        required = RequiredWords.create(options.required, words, slot)
        objective = similarity_with(self.backend, aims[0], required.template)
        num_tokens = required.free_tokens(options.num_tokens)
        check_length(num_tokens, objective.free_tokens(), required.template, self.backend.name)
        check_template(self.backend.text_encoder, slot, self.backend.name)
        initial = random_starts(words, len(tasks) * options.starts, num_tokens, seed, options.initial_prompt)
        _begin_with(captions, initial, words, options.starts)
        starts = Starts(initial, options.starts)
        cost = self._token_cost(options)
        needed = (
            cost or self._asks(options) or options.penalties or options.repetition_penalty or self.prior is not None
        )
        spread = spread_of(objective, words, num_tokens, seed, allowance) if needed else 0.0
        score: Score = objective
        if self.judge is not None:
            means = torch.stack([target.mean for target in aims[1]])
            score = JudgedSimilarity(self.judge, self.backend, means, required.template)
        # What is measured of the results: the texts of the candidates, and what each token contributes.
        searching = allowance.keeping(len(tasks) * (options.top_k + num_tokens))
        readable = readable_score(score, words, required.template, self.prior, options, spread)
        proposals = usable_ids(texts, words, required.template, num_tokens)
        run = functools.partial(
            options.run,
            objective=objective,
            score=weighed_by_proposals(readable, proposals, len(words.table), options.proposal_weight * spread),
            vocabulary=words,
            template=required.template,
            score_per_token=cost * spread,
        )
        begun = Beginning(self._prepared(objective, captions, allowance), starts.ids, starts.groups)
        if self._asks(options):
            warn_of_unusable(texts, proposals)
            rating = functools.partial(run, allowance=searching if options.fast else searching.share(LOOKING_SHARE))
            begun = begin_with(proposals, starts, begun.search, rating, behind=any(captions))
        results: Sequence[SearchResult] = begun.results
        if not options.fast:
            results = run(
                begun.search,
                initial_ids=begun.ids,
                groups=begun.groups,
                top_k=max(options.top_k, PARETO_POOL) if options.pareto else None,
                description=self.method,
                allowance=searching.share(2) if options.pareto or options.shortest is not None else searching,
            )
        prompts = []
        for task, (result, target, aim) in enumerate(zip(results, targets[0], aims[0], strict=True)):
            alone = similarity_with(self.backend, [aim], required.template)
            left = allowance.share(len(tasks) - task)
            left.left_out += [*seen[task].left_out, *(() if unlike is None else unlike.left_out)]
            prompts.append(self._prompt(result, target, alone, words, required, options, left))
        return [dataclasses.replace(prompt, evaluations=allowance.evaluations) for prompt in prompts]

    def _token_cost(self, options: InversionOptions) -> float:
        if options.token_cost is not None:
            return options.token_cost
        return 0.0 if self.backend.image_encoder is None else options.TOKEN_COST

    @property
    def _opposed(self) -> bool:
        """Whether the method looks for what fits least."""
        return isinstance(self.search, TaskPreparation) and self.search.opposed

    def _texts(
        self, targets: Sequence[Target], options: InversionOptions, seed: int, allowance: Allowance
    ) -> list[list[str]]:
        """What the proposers write for each task."""
        if not self._asks(options):
            return [[] for _ in targets]
        features = normalize(torch.stack([target.mean for target in targets]))
        generator = Stream.PROPOSALS.generator(seed)
        return ask(self.proposers, features, options.proposals, options.num_tokens, generator, allowance)

    def _prepared(self, objective: FeatureSimilarity, captions: Sequence[str | None], allowance: Allowance) -> Search:
        if not isinstance(self.search, TaskPreparation):
            return self.search
        return self.search.prepared(self.backend, objective.mean_targets, objective.template, captions, allowance)

    # --- the result -----------------------------------------------------------------------

    def _prompt(
        self,
        result: SearchResult,
        target: Target,
        objective: FeatureSimilarity,
        words: Vocabulary,
        required: RequiredWords,
        options: InversionOptions,
        allowance: Allowance,
    ) -> HardPrompt:
        """The result as people get it, scored on its text by the model's own tokenizer."""
        slot, vocabulary = PromptTemplate(options.template), self.backend.vocabulary
        candidates = result.candidates[:1] if options.fast else result.candidates
        if options.shortest is not None or options.pareto:
            by_length = best_by_length(result.best, objective, words, options.shortest, result.seed, allowance)
            candidates = by_length if options.shortest is not None else (*candidates, *by_length)
        candidates = required.whole(candidates, vocabulary, slot)
        candidates = rescored(candidates, lambda texts: self._text_scores(texts, target, slot), allowance)
        pareto: tuple[TradeOff, ...] = ()
        if options.pareto:
            pareto = _front(candidates, self.prior, slot, allowance, -1.0 if self._opposed else 1.0)
            others = (one.candidate for one in pareto if one.candidate.text != candidates[0].text)
            candidates = (candidates[0], *others)
        return hard_prompt_of(
            result,
            candidates,
            vocabulary=vocabulary,
            template=slot,
            model=self.backend.name,
            method="proposals" if options.fast else self.method,
            method_settings=self.method_settings,
            allowance=allowance,
            scores_of=None
            if options.fast
            else lambda rows: self._text_scores([vocabulary.decode(ids) for ids in rows], target, slot),
            settings={"views": options.looks, "restarts": options.starts, **self._proposers_used},
            pareto=pareto,
        )

    def _text_scores(self, texts: Sequence[str], target: Target, template: PromptTemplate) -> list[float]:
        filled = [template.fill(text) for text in texts]
        try:
            features = self.backend.encode_texts(filled)
        except ValueError:
            if filled != [""]:
                raise
            return [0.0]  # a model that adds no tokens of its own sees nothing in an empty text
        scores: list[float] = (features @ target.plain_mean).tolist()
        return scores


def _begin_with(
    captions: Sequence[str | None], initial: Int[Tensor, "rows tokens"], vocabulary: Vocabulary, restarts: int
) -> None:
    """Lets half of each task's restarts begin with its caption; the first is nothing else."""
    for task, caption in enumerate(captions):
        ids = encode_beginning(caption or "", vocabulary, initial.shape[1])
        if not ids:
            if caption and caption.strip():
                warn_user(
                    f"no restart begins with the caption {quoted(caption)}: its first word is longer than the prompt, "
                    "banned or not in the vocabulary"
                )
            continue
        first = task * restarts
        initial[first : first + max(1, restarts // 2), : len(ids)] = torch.tensor(ids, device=initial.device)
        initial[first, len(ids) :] = NO_TOKEN


def _captions(captioner: Captioner, seen: Sequence[ViewFeatures], allowance: Allowance) -> list[str | None]:
    """What the captioner says of each task's first image; None where there is no time for it."""
    pictures = [one.picture for one in seen if one.picture is not None]
    if len(pictures) < len(seen):
        raise ImageError("a captioner needs images, and was given features; pass images, or caption='...'")
    captions: list[str | None] = []
    for part in allowance.share(LOOKING_SHARE).batches(pictures, max(1, len(pictures)), passes=0, first=1):
        captions += captions_of(captioner, part)
    allowance.leave_out("captions", len(captions), len(pictures))
    return captions + [None] * (len(pictures) - len(captions))


def _front(
    candidates: Sequence[Candidate],
    prior: TextLikelihood | None,
    template: PromptTemplate,
    allowance: Allowance,
    sign: float,
) -> tuple[TradeOff, ...]:
    """What no other candidate betters; a method that looks for what fits least takes less for better."""

    def turned(candidate: Candidate) -> Candidate:
        return dataclasses.replace(candidate, score=sign * candidate.score)

    front = pareto_front([turned(candidate) for candidate in candidates], prior, template, allowance)
    return tuple(
        dataclasses.replace(one, candidate=turned(one.candidate), similarity=sign * one.similarity) for one in front
    )
