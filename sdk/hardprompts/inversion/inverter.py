"""PromptInverter: images become a prompt."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend, join_backends, opened_backend, several
from hardprompts.errors import ImageError, listed
from hardprompts.images import ImageInput
from hardprompts.inversion.answers import Answers
from hardprompts.inversion.captioning import Captioner, opened_captioner
from hardprompts.inversion.evidence.calibration import (
    CalibrationInput,
    EvidenceCalibration,
    calibrations_of,
    opened_calibrations,
)
from hardprompts.inversion.evidence.finding import EvidenceFinder
from hardprompts.inversion.evidence.measures import PASSES_OF_A_PHRASE
from hardprompts.inversion.experts import Experts, unit_features
from hardprompts.inversion.options import InversionArguments, InversionOptions
from hardprompts.inversion.proposals import (
    Beginning,
    Proposer,
    ProposerInput,
    ask,
    begin_with,
    names_of,
    opened_proposers,
    proposers_for,
    usable_ids,
    warn_of_unusable,
)
from hardprompts.inversion.readability import TextLikelihood, open_likelihood
from hardprompts.inversion.space import SearchSpace
from hardprompts.inversion.targets import Target, spread_of
from hardprompts.inversion.tasks import LOOKING_SHARE, Tasks
from hardprompts.inversion.views import ViewFeatures
from hardprompts.methods.phrase_bank import TaskPreparation
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import HardPrompt
from hardprompts.search.protocol import Search, SearchResult
from hardprompts.search.registry import DEFAULT_METHOD, method_name, method_settings, search_method
from hardprompts.search.rows import Ids
from hardprompts.search.seeds import Stream, drawn_seed
from hardprompts.wording import Categories

#: Candidates of a search that similarity, length and fluency are weighed among.
PARETO_POOL = 256


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
            half of the restarts begin with the best, and the default method goes on from it. Those that are a
            `LikelihoodProposer` also have a say in what is chosen. Where none is named, the default method has what
            comes with the model, and every other method is as published; "none" is none for the default, too.
        fluency_model: a language model like `prior`, which has no say in anything: a prompt's `fluency` is what it says
            of the text.
        calibrations: of evidence, or a file of them; default: those that come with the model.

    Raises:
        UnknownName, BackendError: see `load_backend` and `load_captioner`; or the prior is not a causal language model.
        FileFormatError, OSError: see `load_calibrations`.
        ValueError: the calibrations are of other models.

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
        fluency_model: "str | Backend | TextLikelihood | None" = None,
        calibrations: CalibrationInput = None,
    ) -> None:
        def opened(model: str | Backend) -> Backend:
            return opened_backend(model, device=device, dtype=dtype)

        def likelihood(model: "str | Backend | TextLikelihood | None") -> TextLikelihood | None:
            return None if model is None else open_likelihood(model, device=device, dtype=dtype)

        self.backend = join_backends([opened(model) for model in several(backend)])
        self.judge = None if judge is None else opened(judge)
        self.prior = likelihood(prior)
        self.captioner = None if captioner is None else opened_captioner(captioner, device=device, dtype=dtype)
        self.fluency_model = likelihood(fluency_model)
        self._calibrations = _calibrations(calibrations, self.backend)
        self.search = search_method(method)
        self.method, self.method_settings = method_name(method), method_settings(method)
        named = proposers_for(self.search) if proposers is None else proposers
        self.proposers = opened_proposers(named, self.backend)
        self._warns_of_proposals = proposers is not None
        self._held = (self.backend, self.judge, self.prior, self.captioner, self.proposers, self.fluency_model)
        self._used = {"proposers": names_of(named)} if self.proposers else {}

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

    def evidence(
        self,
        prompt: HardPrompt | str,
        images: "ImageInput | Sequence[ImageInput] | Tensor",
        *,
        min_evidence: float | None = None,
        categories: Categories | None = None,
        deadline: float | None = None,
        max_evaluations: int | None = None,
    ) -> HardPrompt:
        """A prompt, also one written by hand, with what speaks for each of its phrases; see `WordEvidence`.

        Args:
            min_evidence: see `InversionOptions`; to a text that somebody wrote nothing is added.
            categories: that false words are taken from; default: the lists that come with the package.

        Of several images a phrase is true if it is true of all. The rest is as for `invert`; features have no regions.
        """
        options = InversionOptions(min_evidence=min_evidence, deadline=deadline, max_evaluations=max_evaluations)
        return EvidenceFinder.of(self.backend, self.judge, self.calibrations, categories).of_prompt(
            prompt, images, options
        )

    @property
    def calibrations(self) -> tuple[EvidenceCalibration, ...]:
        """Of evidence: those that were given, or those that come with the model, read where they are needed."""
        return calibrations_of(self.backend) if self._calibrations is None else self._calibrations

    def _chosen(self, door: str, **options: Any) -> InversionOptions:
        chosen = InversionOptions.of(door, **options)
        _check_use(chosen, self.prior is not None, self._asks(chosen))
        return chosen.seeded()

    def _asks(self, options: InversionOptions) -> bool:
        """Whether the proposers are asked: what they write is not what fits least, nor begins with a given text."""
        return bool(self.proposers) and options.initial_prompt is None and not _is_opposed(self.search)

    # --- the search -----------------------------------------------------------------------

    def _invert(self, images: Sequence[Any], options: InversionOptions, allowance: Allowance) -> list[HardPrompt]:
        """One prompt for each task, that is for each entry of `images`, all searched in one batch."""
        seed = drawn_seed(options.seed)
        asked = self.proposers if self._asks(options) else ()
        experts = Experts(self.backend, self.judge, self.prior, asked)
        tasks = Tasks.of(images, experts.models, self.captioner, options, seed, allowance, self.search, self._held)
        targets = tasks.targets(options)
        aims = [[target.opposite for target in own] for own in targets] if _is_opposed(self.search) else targets
        texts = _proposed(asked, aims[0], options, seed, allowance)
        known = [*tasks.captions, *itertools.chain.from_iterable(texts)]
        space = SearchSpace.of(self.backend, aims[0], options, known, self.search, self._held)
        proposals = usable_ids(texts, space.words, space.required.template, space.num_tokens)
        if asked and self._warns_of_proposals:
            warn_of_unusable(texts, proposals)
        unsearched = options.fast or experts.leave_whole(options, proposals)
        results = self._results(tasks, aims, proposals, space, experts, options, unsearched, seed, allowance)
        answers = Answers(
            self.backend, space, self.prior, self.fluency_model, options, _is_opposed(self.search), unsearched,
            self.method, self.method_settings, {"views": options.looks, "restarts": options.starts, **self._used},
        )  # fmt: skip
        prompts = []
        for task, (result, target) in enumerate(zip(results, targets[0], strict=True)):
            left = allowance.share(len(results) - task)
            left.left_out += tasks.left_out(task)
            prompts.append(answers.prompt(result, target, left))
        if options.wants_evidence:
            finder = EvidenceFinder.of(self.backend, self.judge, self.calibrations)
            prompts = finder.of_results(prompts, images, tasks.seen, targets[0], answers, seed, allowance)
        return [dataclasses.replace(prompt, evaluations=allowance.evaluations) for prompt in prompts]

    def _results(
        self,
        tasks: Tasks,
        aims: Sequence[Sequence[Target]],
        proposals: Sequence[Sequence[Ids]],
        space: SearchSpace,
        experts: Experts,
        options: InversionOptions,
        unsearched: bool,
        seed: int,
        allowance: Allowance,
    ) -> Sequence[SearchResult]:
        """What the search finds for each task; `unsearched`, the choice among what was proposed."""
        starts = space.starts(options, tasks.captions, seed)
        spread = 0.0
        if experts.need_spread(options):
            spread = spread_of(space.objective, space.words, space.num_tokens, seed, allowance, space.room)
        # What is measured of the results: the texts of the candidates, what each token contributes, and evidence.
        of_each_token = 1 + (PASSES_OF_A_PHRASE if options.wants_evidence else 0)
        searching = allowance.keeping(len(aims[0]) * (options.top_k + space.num_tokens * of_each_token))
        run = functools.partial(
            options.run,
            objective=space.objective,
            score=experts.score(space, aims, proposals, options, spread),
            vocabulary=space.words,
            template=space.required.template,
            score_per_token=experts.token_cost(options) * spread,
            room=space.room,
        )
        begun = Beginning(
            _prepared(self.search, self.backend, space.objective, tasks.captions, allowance), starts.ids, starts.groups
        )
        if experts.proposers:
            rating = functools.partial(run, allowance=searching if unsearched else searching.share(LOOKING_SHARE))
            begun = begin_with(
                proposals, starts, begun.search, rating, captioned=[bool(caption) for caption in tasks.captions]
            )
        if unsearched:
            return begun.results
        return run(
            begun.search,
            initial_ids=begun.ids,
            groups=begun.groups,
            top_k=max(options.top_k, PARETO_POOL) if options.pareto else None,
            description=self.method,
            allowance=searching.share(2) if options.pareto or options.shortest is not None else searching,
        )


def _calibrations(given: CalibrationInput, backend: Backend) -> tuple[EvidenceCalibration, ...] | None:
    """The calibrations that are asked for, of which one at least is for the model unless there is none."""
    found = opened_calibrations(given)
    others = {one.models[0] for one in found or ()}
    if others and backend.name not in others:
        raise ValueError(
            f"the calibrations are for {listed(sorted(others))} and not for {backend.name}, and figures of one model "
            "mean nothing for another; open that model, or fit calibrations for this one with "
            "`hardprompts.inversion.calibrate`"
        )
    return found


def _check_use(options: InversionOptions, has_prior: bool, asks: bool) -> None:
    """Raises ValueError where an option needs a prior or proposers, and there are none that are asked."""
    if not has_prior and options.prior_weight != InversionOptions.prior_weight:
        raise ValueError(
            f"prior_weight = {options.prior_weight} is of no use without a prior; give PromptInverter(prior=...)"
        )
    if options.fast and not asks:
        raise ValueError(
            "fast=True returns what proposers write, and there are none here; give PromptInverter(proposers=...), "
            "no initial_prompt and no method that looks for what fits least"
        )
    if options.style == "caption" and not has_prior and not asks:
        raise ValueError(
            "style='caption' needs something that knows how captions read, and there is nothing here; give "
            "PromptInverter(prior=...), or proposers=..., such as 'auto' for what comes with the model, and then "
            "no initial_prompt and no method that looks for what fits least"
        )


def _is_opposed(search: Search) -> bool:
    """Whether a method looks for what fits least."""
    return isinstance(search, TaskPreparation) and search.opposed


def _proposed(
    proposers: Sequence[Proposer], targets: Sequence[Target], options: InversionOptions, seed: int, allowance: Allowance
) -> list[list[str]]:
    """What the proposers write for each task; nothing, if none is asked."""
    if not proposers:
        return [[] for _ in targets]
    tokens, generator = options.places(options.num_tokens), Stream.PROPOSALS.generator(seed)
    return ask(proposers, unit_features(targets), options.proposals, tokens, generator, allowance)


def _prepared(
    search: Search,
    backend: Backend,
    objective: FeatureSimilarity,
    captions: Sequence[str | None],
    allowance: Allowance,
) -> Search:
    """The method, prepared for the tasks of a call if it wants to be."""
    if not isinstance(search, TaskPreparation):
        return search
    return search.prepared(backend, objective.mean_targets, objective.template, captions, allowance)
