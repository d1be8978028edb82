"""`pipe.invert_prompt(image)` and `pipe.distill_prompt(prompt)` for text-to-image pipelines."""

import contextlib
import functools
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from hardprompts.diffusion import DenoisingInverter
from hardprompts.diffusion.inverter import DEFAULT_MAX_STEPS
from hardprompts.distillation import PromptDistiller
from hardprompts.encoders import Backend
from hardprompts.inversion import PromptInverter
from hardprompts.methods import Refine
from hardprompts.noise import LATE, NoiseWindow
from hardprompts.prompts import HardPrompt, unique
from hardprompts.search import DEFAULT_METHOD, Search, SearchProgress
from hardprompts.softprompts import SoftPrompt
from hardprompts_diffusers.components import preserved
from hardprompts_diffusers.dual_encoders import dual_encoder
from hardprompts_diffusers.predictors import noise_predictor

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline as _Base
else:
    _Base = object

METHODS = ("clip", "diffusion", "clip+diffusion")

#: Prompts of the CLIP search that the denoiser judges, for "clip+diffusion".
RERANKED = 16

Pipeline = TypeVar("Pipeline")


@dataclass
class PromptInversionOutput(BaseOutput):  # type: ignore[misc]
    r"""
    Output class for prompt inversion.

    Args:
        prompts (`list[str]`):
            One prompt for each image (or each list of images), with the template filled in.
        scores (`list[float]`):
            Their scores, higher is better. With `method="clip"` the cosine similarity of prompt and image, else the
            share of the empty prompt's denoising error that the prompt removes.
        hard_prompts (`list[HardPrompt]`):
            The same with token ids, further candidates, attributions, history and provenance.
    """

    prompts: list[str]
    scores: list[float]
    hard_prompts: list[HardPrompt]


class PromptInversionMixin(_Base):  # type: ignore[misc]
    r"""
    Finds the prompt of an image, for any latent text-to-image pipeline.

    Mix it into a pipeline class, or add it to a pipeline in memory with [`enable_prompt_inversion`], which keeps the
    class's name, so that saving, reloading and `AutoPipeline` go on working.
    """

    def invert_prompt(
        self,
        image: Any,
        method: str = "clip",
        num_tokens: int = 8,
        template: str = "{}",
        initial_prompt: str | None = None,
        unlike_image: Any = None,
        banned: Sequence[str] = (),
        height: int | None = None,
        width: int | None = None,
        num_inversion_steps: int | None = None,
        search: str | Search | None = None,
        clip_backend: "str | Backend | list[str | Backend] | None" = None,
        noise_window: NoiseWindow = LATE,
        num_noises: int = 16,
        noises_per_step: int | None = 4,
        batch_size: int = 8,
        gradient_checkpointing: bool = False,
        deadline: float | None = None,
        tokenizer: str | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None] | None = None,
        pipeline_kwargs: Mapping[str, Any] | None = None,
        **search_kwargs: Any,
    ) -> "PromptInversionOutput | tuple[list[str], list[float], list[HardPrompt]]":
        r"""
        Finds the prompt that describes an image to this pipeline.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor`, path, or a list of these):
                The image. Of a list or a batch, each image gets a prompt of its own; a list within the list is one
                prompt for all of its images: `[[a, b, c]]` finds what three pictures share. Arrays are
                `(height, width, channels)`, tensors `(channels, height, width)`, in [0, 1] or uint8.
            method (`str`, *optional*, defaults to `"clip"`):
                `"clip"` searches for the text that is most similar to the image, in the eyes of the CLIP model that the
                pipeline's text encoder comes from, which is loaded for it. `"diffusion"` searches for the text under
                which the pipeline itself denoises the image best. `"clip+diffusion"` searches with CLIP, has the
                pipeline judge the best candidates, and refines the winner.
            num_tokens (`int`, *optional*, defaults to 8):
                The number of tokens of the prompt; methods that insert and delete return as many or fewer.
            template (`str`, *optional*, defaults to `"{}"`):
                Text with one `"{}"` that the prompt is for, such as `"a tiger in the style of {}"`.
            initial_prompt (`str`, *optional*):
                Text to start from. Defaults to random tokens.
            unlike_image (`PIL.Image.Image` or a list, *optional*):
                Images that the prompt should not fit.
            banned (`list[str]`, *optional*):
                Strings that must not occur in the prompt.
            height, width (`int`, *optional*):
                The size in pixels that images are scaled and cropped to for the denoiser. Defaults to the pipeline's.
            num_inversion_steps (`int`, *optional*):
                The number of steps of the search. Defaults to 1000 with CLIP and 200 with the denoiser, or as many as
                the search method wants.
            search (`str` or `Search`, *optional*):
                The search method: a name from `hardprompts.search_methods()`, or a method with its own hyperparameters.
                Defaults to `"build+refine"` with CLIP and `"ph2p"` with the denoiser.
            clip_backend (`str`, `Backend` or a list, *optional*):
                The model for `method="clip"`, as for `hardprompts.load_backend`. Defaults to the dual encoder(s) of the
                pipeline's text encoder(s): ViT-L/14 for Stable Diffusion 1.x, ViT-H/14 for 2.x, ViT-L/14 and
                ViT-bigG/14 together for SDXL.
            noise_window (`NoiseWindow`, *optional*):
                The noise levels, 0 (clean) to 1 (pure noise), on which the denoiser judges. Defaults to the later half
                of Stable Diffusion's timesteps, at the same levels on every schedule.
            num_noises (`int`, *optional*, defaults to 16):
                The number of noises of the fixed bank that every prompt is judged on.
            noises_per_step (`int`, *optional*, defaults to 4):
                The number of them that are drawn for each gradient; `None` for all.
            batch_size (`int`, *optional*, defaults to 8):
                The number of latents that go through the denoiser at once; less saves memory.
            gradient_checkpointing (`bool`, *optional*, defaults to `False`):
                Whether to save memory in the denoiser at the price of another forward pass.
            deadline (`float`, *optional*):
                Seconds after which the best prompt so far is returned.
            tokenizer (`str`, *optional*):
                Whose tokens are searched, such as `"tokenizer_2"`, for pipelines with several kinds of text encoders.
            generator (`torch.Generator`, *optional*):
                Makes the result reproducible.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`PromptInversionOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called after each step as `callback_on_step_end(pipe, step, timestep, callback_kwargs)`, where
                `timestep` is `None` and `callback_kwargs` has the best `prompts` and `scores` so far.
                `pipe._interrupt = True` ends the search, which then returns the best so far, and so does a keyboard
                interrupt.
            pipeline_kwargs (`dict`, *optional*):
                Further arguments of the pipeline's call, such as `max_sequence_length`.
            search_kwargs:
                Further options of [`hardprompts.PromptInverter.invert`] (method `"clip"`) or of
                [`hardprompts.diffusion.DenoisingOptions`], such as `restarts`, `vocabulary`, `crop` or `top_k`.

        Examples:

            >>> pipe = enable_prompt_inversion(pipe)
            >>> pipe(pipe.invert_prompt(image).prompts[0]).images[0]

        Returns:
            [`PromptInversionOutput`] or `tuple`: prompts, scores and `HardPrompt`s, one for each image. The pipeline is
            left exactly as it was.
        """
        if method not in METHODS:
            raise ValueError(f"`method` has to be one of {', '.join(METHODS)}, but is {method!r}")
        tasks = _tasks(image)
        seed = _seed(generator)
        common = {
            "num_tokens": num_tokens, "template": template, "initial_prompt": initial_prompt, "banned": banned,
            "deadline": deadline, "unlike": unlike_image, "seed": seed,
        }  # fmt: skip
        with torch.inference_mode(False), self._searching(num_inversion_steps, callback_on_step_end) as on_step:
            limits = {"callback": on_step, "max_steps": num_inversion_steps}
            if method == "clip":
                inverter = PromptInverter(dual_encoder(self, clip_backend), search or DEFAULT_METHOD)
                return _output(
                    [
                        inverter.invert(task, **{**common, **limits, "progress": False, **search_kwargs})
                        for task in tasks
                    ],
                    return_dict,
                )
            with preserved(self, gradient_checkpointing=gradient_checkpointing):
                predictor = noise_predictor(
                    self, height=height, width=width, tokenizer=tokenizer, options=pipeline_kwargs
                )
                options = {
                    **common, "window": noise_window, "num_noises": num_noises, "noises_per_step": noises_per_step,
                    "batch_size": batch_size, **limits, **search_kwargs,
                }  # fmt: skip
                if method == "diffusion":
                    found = DenoisingInverter(predictor, search).invert_each(tasks, **options)
                    return _output(found, return_dict)
                first = PromptInverter(dual_encoder(self, clip_backend))
                second = DenoisingInverter(predictor, search or Refine(candidates_per_slot=8))
                return _output([_both(first, second, task, common, options) for task in tasks], return_dict)

    def distill_prompt(
        self,
        prompt: "str | SoftPrompt | os.PathLike[str] | Tensor",
        num_tokens: int = 8,
        template: str = "{}",
        image: Any = None,
        num_images: int = 4,
        initial_prompt: str | None = None,
        banned: Sequence[str] = (),
        height: int | None = None,
        width: int | None = None,
        num_inversion_steps: int | None = None,
        search: str | Search | None = None,
        noise_window: NoiseWindow = LATE,
        num_noises: int = 16,
        noises_per_step: int | None = 4,
        batch_size: int = 8,
        gradient_checkpointing: bool = False,
        deadline: float | None = None,
        tokenizer: str | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None] | None = None,
        pipeline_kwargs: Mapping[str, Any] | None = None,
        **search_kwargs: Any,
    ) -> "PromptInversionOutput | tuple[list[str], list[float], list[HardPrompt]]":
        r"""
        Finds a short prompt under which the pipeline does what it does under a long one, or under a textual inversion.

        The denoiser's predictions under both are compared on noised images. The score is the share of the long
        prompt's effect that the short one keeps: 0 for the empty prompt, 1 for one that is as good.

        Args:
            prompt (`str`, `SoftPrompt`, path or `torch.Tensor`):
                The prompt to shorten. What the text encoder cuts off counts for nothing. Or a soft prompt, the path of
                its file, or its `(tokens, dim)` embeddings, which stand in the template's slot; the result is then a
                `DistilledPrompt`, whose `faithfulness` tells how much of its effect is kept. A `str` is always a
                prompt; [`~PromptInversionMixin.prompt_from_embedding`] takes the path of a file as a `str` too.
            num_tokens (`int`, *optional*, defaults to 8):
                The number of tokens of the short prompt.
            image (`PIL.Image.Image` or a list, *optional*):
                Pictures of the prompt, which are noised. By default the pipeline makes `num_images` of them; of a soft
                prompt, the denoiser makes a few rough ones.
            num_images (`int`, *optional*, defaults to 4):
                The number of pictures to make, with the pipeline's default number of inference steps and guidance.

        All others are those of [`~PromptInversionMixin.invert_prompt`]; for a soft prompt `search_kwargs` are those of
        [`hardprompts.PromptDistiller.distill`], such as `match="hidden_states"`.

        Returns:
            [`PromptInversionOutput`] or `tuple`: lists with the one short prompt. The pipeline is left as it was.
        """
        if not isinstance(prompt, str | SoftPrompt | os.PathLike | Tensor):
            raise ValueError(
                f"`prompt` has to be a `str`, a `SoftPrompt`, a path or a tensor, but is a {type(prompt).__name__}"
            )
        seed = _seed(generator)
        if not isinstance(prompt, str):
            with (
                torch.inference_mode(False),
                self._searching(num_inversion_steps, callback_on_step_end) as on_step,
                preserved(self, gradient_checkpointing=gradient_checkpointing),
            ):
                predictor = noise_predictor(
                    self, height=height, width=width, tokenizer=tokenizer, options=pipeline_kwargs
                )
                decoded = PromptDistiller(predictor, search or "ph2p").distill(
                    prompt, num_tokens, inside=template, images=image, initial_prompt=initial_prompt, banned=banned,
                    deadline=deadline, seed=seed, window=noise_window, num_noises=num_noises,
                    noises_per_step=noises_per_step, batch_size=batch_size, callback=on_step, progress=False,
                    max_steps=DEFAULT_MAX_STEPS if num_inversion_steps is None else num_inversion_steps,
                    **{"match": "noise", **search_kwargs},
                )  # fmt: skip
            return _output([decoded], return_dict)
        size = {key: value for key, value in (("height", height), ("width", width)) if value is not None}
        if image is None:
            # Seeded by a generator of its own: how many numbers a pipeline draws is its own affair.
            draws = torch.Generator().manual_seed(seed)
            given = dict(pipeline_kwargs or {})
            image = self(prompt=prompt, num_images_per_prompt=num_images, generator=draws, **size, **given).images
        with (
            torch.inference_mode(False),
            self._searching(num_inversion_steps, callback_on_step_end) as on_step,
            preserved(self, gradient_checkpointing=gradient_checkpointing),
        ):
            predictor = noise_predictor(self, height=height, width=width, tokenizer=tokenizer, options=pipeline_kwargs)
            found = DenoisingInverter(predictor, search).imitate(
                prompt, image, num_tokens=num_tokens, template=template, initial_prompt=initial_prompt,
                banned=banned, deadline=deadline, seed=seed, window=noise_window, num_noises=num_noises,
                noises_per_step=noises_per_step, batch_size=batch_size, callback=on_step,
                max_steps=num_inversion_steps, **search_kwargs,
            )  # fmt: skip
        return _output([found], return_dict)

    def prompt_from_embedding(
        self, path: "str | os.PathLike[str]", **kwargs: Any
    ) -> "PromptInversionOutput | tuple[list[str], list[float], list[HardPrompt]]":
        r"""
        Finds the prompt that says to the pipeline what a textual inversion does.

        Args:
            path (`str` or `os.PathLike`):
                The file, in any format that [`hardprompts.SoftPrompt.from_file`] reads; nothing in it is ever run.
            kwargs:
                Those of [`~PromptInversionMixin.distill_prompt`].

        Returns:
            [`PromptInversionOutput`] or `tuple`: lists with the one prompt. The pipeline is left as it was.
        """
        return self.distill_prompt(Path(path), **kwargs)

    @contextlib.contextmanager
    def _searching(
        self, steps: int | None, callback: Callable[[Any, int, Any, dict[str, Any]], Any] | None
    ) -> Iterator[Callable[[SearchProgress], bool]]:
        """What `run_search` is to call after each step: the progress bar, the callback, and `_interrupt`."""
        before = vars(self).get("_interrupt")
        self._interrupt = False
        with self.progress_bar(total=DEFAULT_MAX_STEPS if steps is None else steps) as bar:

            def on_step(progress: SearchProgress) -> bool:
                best = [candidate for candidate in progress.best if candidate is not None]
                if best:
                    bar.set_postfix_str(f"{best[0].score:.3f} {best[0].text}", refresh=False)
                bar.total = progress.max_steps  # None where the method itself decides when it is done
                bar.update()
                if callback is not None:
                    told = {"prompts": [one.text for one in best], "scores": [one.score for one in best]}
                    callback(self, progress.step - 1, None, told)
                return bool(self._interrupt)

            try:
                yield on_step
            finally:
                del self._interrupt
                if before is not None:
                    self._interrupt = before


@functools.cache
def _with_inversion(kind: type[Any]) -> type[Any]:
    """The pipeline class with the mixin in front, under the same name in the same module."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (PromptInversionMixin, kind), names)


def enable_prompt_inversion(pipe: Pipeline) -> Pipeline:
    r"""
    Gives a pipeline in memory `invert_prompt` and `distill_prompt`; see [`PromptInversionMixin`].

    Its class is replaced by a subclass of the same name, so that `save_pretrained`, `from_pretrained` with plain
    diffusers, `AutoPipeline` and `isinstance` go on working. Calling it twice changes nothing.

    Args:
        pipe (`DiffusionPipeline`): A text-to-image pipeline.

    Returns:
        The same pipeline.
    """
    if not isinstance(pipe, PromptInversionMixin):
        kind: Any = type(pipe)
        pipe.__class__ = _with_inversion(kind)
    return pipe


def _tasks(image: Any) -> list[Any]:
    """The images of each prompt: of a list or a batch, each entry has its own."""
    if isinstance(image, list | tuple):
        return [one for entry in image for one in ([entry] if isinstance(entry, list | tuple) else _tasks(entry))]
    return list(image) if isinstance(image, np.ndarray | Tensor) and image.ndim == 4 else [image]


def _seed(generator: torch.Generator | None) -> int:
    if generator is None:
        return secrets.randbits(31)
    return int(torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device))


def _output(
    found: list[HardPrompt], return_dict: bool
) -> "PromptInversionOutput | tuple[list[str], list[float], list[HardPrompt]]":
    prompts, scores = [one.filled for one in found], [one.score for one in found]
    return PromptInversionOutput(prompts, scores, found) if return_dict else (prompts, scores, found)


def _both(
    first: PromptInverter,
    second: DenoisingInverter,
    task: Any,
    common: Mapping[str, Any],
    options: Mapping[str, Any],
) -> HardPrompt:
    """The best of what CLIP finds by the denoiser's judgment, refined by it."""
    deadline = options.get("deadline")
    half = {"deadline": None if deadline is None else deadline / 2}
    limits = {"max_steps": options["max_steps"], "callback": options["callback"], "top_k": RERANKED, "progress": False}
    similar = first.invert(task, **{**common, **half, **limits})
    judged = second.rescore([candidate.text for candidate in similar.candidates], task, **options)
    start = judged[0]
    refined = second.invert(
        task,
        **{
            **options,
            **half,
            "initial_prompts": [start.text],
            "num_tokens": max(options["num_tokens"], len(start.token_ids)),
        },
    )
    provenance = {**refined.provenance, "clip_model": similar.model, "clip_prompt": similar.text}
    candidates = unique((*refined.candidates, *judged))
    return replace(
        refined, candidates=candidates, method=f"{first.method}, then {second.method}", provenance=provenance
    )
