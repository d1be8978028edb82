"""How good prompts are by the pictures that they make, and by those that they are for."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.encoders import Backend, normalize
from hardprompts.evaluation.texts import filled
from hardprompts.prompts import HardPrompt

#: What makes features of pictures, (pictures, features): a model, or a function such as a DINO or any network of timm.
ImageJudge: TypeAlias = Backend | Callable[[Sequence[Image.Image]], Float[Tensor, "pictures features"]]


def image_similarities(
    pictures: Sequence[Sequence[Image.Image]], targets: Sequence[Image.Image], judge: ImageJudge
) -> tuple[float, ...]:
    """How alike each target and the pictures made for it are: the mean cosine over its pictures, in [-1, 1].

    Args:
        pictures: for each target, those that its prompt made with several seeds; RGB.
        targets: RGB.
        judge: a model that took no part in making or finding the prompts, or what makes features of pictures with one.

    Raises:
        ValueError: there are not as many lists as targets, or one is empty.
        BackendError: the judge has no image tower.
    """
    _check_targets(pictures, targets)
    if not pictures:
        return ()
    features = _features(pictures, 1, judge)
    wanted = _seen(targets, judge)
    return tuple(float((own @ target).mean()) for own, target in zip(features, wanted, strict=True))


def diversities(pictures: Sequence[Sequence[Image.Image]], judge: ImageJudge) -> tuple[float, ...]:
    """How different the pictures of each prompt are: 1 less the mean cosine over its pairs, in [0, 2].

    Args:
        pictures: for each prompt, those that it made with several seeds, two or more; RGB.

    Raises:
        ValueError: a prompt has fewer than two pictures.
        BackendError: the judge has no image tower.
    """
    found = []
    for own in _features(pictures, 2, judge) if pictures else []:
        count = len(own)
        pairs = (own.sum(dim=0).square().sum() - own.square().sum()) / (count * (count - 1))
        found.append(1 - float(pairs))
    return tuple(found)


def _features(pictures: Sequence[Sequence[Image.Image]], at_least: int, judge: ImageJudge) -> list[Tensor]:
    """The unit features of each list of pictures, all encoded in one go."""
    for index, own in enumerate(pictures):
        if len(own) < at_least:
            raise ValueError(f"entry {index} has {len(own)} pictures and needs at least {at_least}")
    features = _seen([picture for own in pictures for picture in own], judge)
    return list(features.split([len(own) for own in pictures]))


def _check_targets(pictures: Sequence[object], targets: Sequence[object]) -> None:
    if len(pictures) != len(targets):
        raise ValueError(
            f"each target needs the pictures made for it, got {len(pictures)} lists and {len(targets)} targets"
        )


def _seen(pictures: Sequence[Image.Image], judge: ImageJudge) -> Float[Tensor, "pictures features"]:
    """The unit features of pictures."""
    if isinstance(judge, Backend):
        return judge.encode_images(list(pictures)).double()
    with torch.no_grad():
        features = judge(list(pictures))
    if features.ndim != 2 or len(features) != len(pictures):
        raise ValueError(
            f"a judge of {len(pictures)} pictures must give features of shape (pictures, features), and gave "
            f"{tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError("the features that the judge gives are NaN or infinite; check the pictures, and its precision")
    return normalize(features.double())


def prompt_image_similarities(
    prompts: Sequence[HardPrompt | str], targets: Sequence[Image.Image], judge: Backend
) -> tuple[float, ...]:
    """How well each prompt fits its target: the cosine of their features by a second model, in [-1, 1].

    Args:
        prompts: read in their templates, by the judge's own tokenizer.
        targets: RGB.
        judge: a dual encoder that no search has followed; see `check_independent`.

    Raises:
        ValueError: there are not as many prompts as targets.
        BackendError: the judge has no image tower.

    Source: CLIPScore, Hessel et al. 2021, arXiv 2104.08718, without its factor 2.5 and its cut at 0.
    """
    if len(prompts) != len(targets):
        raise ValueError(f"each target needs its prompt, got {len(prompts)} prompts and {len(targets)} targets")
    if not prompts:
        return ()
    said = judge.encode_texts([filled(prompt) for prompt in prompts]).double()
    return tuple((said * judge.encode_images(list(targets)).double()).sum(dim=1).tolist())


def perceptual_distances(
    pictures: Sequence[Sequence[Image.Image]],
    targets: Sequence[Image.Image],
    distance: Callable[[Tensor, Tensor], Tensor],
) -> tuple[float, ...]:
    """How far each target is from the pictures made for it, place by place: the mean over its pictures.

    It compares layouts, so it means something only where the pictures were made from the target's own noise.

    Args:
        pictures: for each target, those that its prompt made; RGB; resized to the target's size.
        targets: RGB.
        distance: of two batches (pictures, 3, height, width) in [-1, 1], one number for each pair:
            `lpips.LPIPS(net="alex")` of the package lpips, which downloads AlexNet's weights, or any like it.

    Raises:
        ValueError: there are not as many lists as targets, one is empty, or the distance gives something else.

    Source: LPIPS, Zhang et al. 2018, arXiv 1801.03924.
    """
    _check_targets(pictures, targets)
    found = []
    for index, (own, target) in enumerate(zip(pictures, targets, strict=True)):
        if not own:
            raise ValueError(f"entry {index} has no pictures and needs at least 1")
        made = torch.stack([_pixels(picture.resize(target.size, Image.Resampling.BICUBIC)) for picture in own])
        with torch.no_grad():
            far = distance(made, _pixels(target).expand_as(made)).flatten()
        if len(far) != len(own) or not far.isfinite().all():
            raise ValueError(f"the distance of {len(own)} pictures must be as many finite numbers, got {far.tolist()}")
        found.append(float(far.double().mean()))
    return tuple(found)


def _pixels(picture: Image.Image) -> Float[Tensor, "3 height width"]:
    """A picture in [-1, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 127.5 - 1
