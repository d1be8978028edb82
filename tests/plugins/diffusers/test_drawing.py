"""Pipelines of diffusers as generators of pictures."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from hardprompts import BackendError, UnknownName
from hardprompts.applications import load_generator
from hardprompts.testing import check_generator
from hardprompts_diffusers import PipelineGenerator


def test_the_embedded_generator_draws_with_seeds_of_its_own_for_each_prompt() -> None:
    draw = load_generator("emoji:emoji-sd", steps=2, device="cpu")
    check_generator(draw, ["a fox", "a neon castle"])
    one, other, again = draw(["a fox"] * 3, [1, 2, 1])
    assert one is not None and other is not None and again is not None
    assert one.tobytes() != other.tobytes() and one.tobytes() == again.tobytes()
    assert draw.name == "emoji:emoji-sd (steps=2)"
    with pytest.raises(UnknownName, match="embedded generator 'emoji-xl'"):
        load_generator("emoji:emoji-xl")
    with pytest.raises(BackendError, match="needs a model"):
        load_generator("diffusers:")


def test_what_a_safety_checker_refuses_is_no_picture_and_only_what_was_asked_for_is_passed() -> None:
    calls: list[dict[str, Any]] = []

    def pipe(prompts: list[str], generator: list[torch.Generator], **given: Any) -> object:
        calls.append({"seeds": [one.initial_seed() for one in generator], **given})
        images = [Image.new("RGB", (8, 8), "red") for _ in prompts]
        return SimpleNamespace(images=images, nsfw_content_detected=["bad" in text for text in prompts])

    drawn = PipelineGenerator(pipe, {"num_inference_steps": 3})(["good", "bad"], [5, 7])
    assert drawn[0] is not None and drawn[1] is None
    assert calls == [{"seeds": [5, 7], "num_inference_steps": 3}]
