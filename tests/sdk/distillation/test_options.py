"""Options of a distillation: declared once, and refused where they say nothing about what is matched."""

import dataclasses
from typing import Any, get_type_hints

import pytest
import torch

from hardprompts import PromptDistiller
from hardprompts.distillation.options import DistillationOptions, TaskArguments
from hardprompts.noise import NoiseWindow
from hardprompts.testing import toy_backend

DISTILLER = PromptDistiller(toy_backend())
LONG = "the old red house near a small river in winter night"
FOR_NOISE: dict[str, Any] = {
    "images": "nosuchfile.png", "window": NoiseWindow(0.1, 0.2), "num_noises": 3, "noises_per_step": None,
    "batch_size": 3,
}  # fmt: skip
FOR_OUTPUTS: dict[str, Any] = {"answers": ["good", "bad"], "texts_per_step": 3}


def test_arguments_are_the_fields_of_the_options() -> None:
    assert set(TaskArguments.__annotations__) | set(get_type_hints(TaskArguments)) == {
        field.name for field in dataclasses.fields(DistillationOptions)
    }


@pytest.mark.parametrize("match", ["auto", "features", "hidden_states", "noise", "outputs"])
@pytest.mark.parametrize(("name", "value"), [*FOR_NOISE.items(), *FOR_OUTPUTS.items(), ("held_out", ["a {}"])])
def test_an_option_of_another_match_is_refused(match: str, name: str, value: Any) -> None:
    own = {"noise"} if name in FOR_NOISE else {"outputs"} if name in FOR_OUTPUTS else None
    fits = match != "noise" if own is None else match in own
    if fits:
        if match != "auto":
            assert getattr(DistillationOptions(match=match, **{name: value}), name) == value  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=rf"^{name} is for match='(noise|outputs|features)'"):
        DISTILLER.distill(LONG, num_tokens=2, match=match, progress=False, **{name: value})  # type: ignore[arg-type]


def test_what_auto_chose_is_named() -> None:
    with pytest.raises(ValueError, match=r"'features' is matched here \(chosen by 'auto'\)"):
        DISTILLER.faithfulness("red", LONG, num_noises=3)


@pytest.mark.parametrize("call", ["distill", "distill_each", "faithfulness"])
def test_a_misspelt_option_names_the_right_one(call: str) -> None:
    given: Any = {"distill": (LONG,), "distill_each": ([LONG],), "faithfulness": ("red", LONG)}[call]
    with pytest.raises(
        TypeError, match=rf"PromptDistiller.{call} has no option 'num_token'; did you mean 'num_tokens'"
    ):
        getattr(DISTILLER, call)(*given, num_token=3)


def test_a_call_leaves_the_caller_s_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    found = DISTILLER.distill(LONG, num_tokens=2, max_steps=1, progress=False)
    assert found.seed is not None and torch.equal(torch.random.get_rng_state(), before)
