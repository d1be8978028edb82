"""Deadlines, budgets and interrupts hold for all that a call does, before, in and behind its search."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from slow_tower import SECONDS, SlowTower, on_its_clock
from toy_distillation import LONG

from hardprompts import HardPrompt, PromptDistiller, PromptInverter, SoftPrompt
from hardprompts.distillation.portability import portability_report
from hardprompts.methods import PEZ

#: A prompt of three thousand words.
ENDLESS = " ".join(LONG.split()[(7 * i + i // 11) % 11] for i in range(3000))

Call = Callable[..., HardPrompt]


def doors(tower: SlowTower, words: int = 3000) -> dict[str, Call]:
    """What finds a prompt, by name; each takes limits; those that distill are given so many words."""
    text = " ".join(ENDLESS.split()[:words])
    backend, quick = tower.backend, {"seed": 0, "progress": False}
    pictures = [tower.picture(text) for text in ("red house", "old boat", "night rain") for _ in range(20)]
    features = torch.nn.functional.normalize(tower.encode_text(["red house"]), dim=-1)
    soft = tower.vocabulary.embed(torch.tensor(tower.vocabulary.encode("old boat"))) + 0.5
    inverter, distiller = PromptInverter(backend), PromptDistiller(backend)

    def prior(texts: Any) -> torch.Tensor:
        tower.now += SECONDS * len(texts)
        return -torch.tensor([float(len(text)) for text in texts])

    def captions(images: Any) -> list[str]:
        tower.now += 10 * SECONDS * len(images)
        return ["a red house"] * len(images)

    readable, described = PromptInverter(backend, prior=prior), PromptInverter(backend, captioner=captions)
    return {
        "invert": lambda **limits: inverter.invert(features, **quick, **limits),
        "invert by gradients": lambda **limits: PromptInverter(backend, PEZ()).invert(features, **quick, **limits),
        "invert many images": lambda **limits: inverter.invert(pictures, **quick, **limits),
        "invert each": lambda **limits: inverter.invert_each(pictures[:30], batch_size=8, **quick, **limits)[-1],
        "trade-offs": lambda **limits: readable.invert(features, pareto=True, **quick, **limits),
        "shortest": lambda **limits: inverter.invert(features, shortest=0.9, **quick, **limits),
        "captions": lambda **limits: described.invert_each(pictures[:30], batch_size=30, **quick, **limits)[0],
        "distill": lambda **limits: distiller.distill(text, **quick, **limits),
        "distill a soft prompt": lambda **limits: distiller.distill(soft, **quick, **limits),
        "distill each": lambda **limits: distiller.distill_each([text, soft, LONG], **quick, **limits)[-1],
        "in several templates": lambda **limits: distiller.distill(
            text, templates=["{}", "the {}", "a {} here"], **quick, **limits
        ),
    }  # fmt: skip


DOORS = list(doors(SlowTower()))

#: Doors whose images are encoded by the tower that counts texts.
WITH_IMAGES = ("invert many images", "invert each", "captions")


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> SlowTower:
    """A model with a clock, whose words were read before."""
    made = SlowTower()
    PromptInverter(made.backend).search.read_words(made, progress=False)  # type: ignore[attr-defined]
    on_its_clock(made, monkeypatch)
    made.reset()
    return made


@pytest.mark.parametrize("door", DOORS)
def test_a_deadline_is_for_the_whole_call(door: str, tower: SlowTower) -> None:
    call = doors(tower)[door]
    tower.reset()
    prompt = call(deadline=4.0)
    assert prompt.text
    assert tower.now < 4.0 * 1.1 + 10 * SECONDS, prompt.left_out
    if door in ("distill", "distill each", "invert many images"):
        assert prompt.left_out


@pytest.mark.parametrize("door", DOORS)
def test_a_call_without_time_does_little_and_says_so(door: str, tower: SlowTower) -> None:
    call = doors(tower)[door]
    tower.reset()
    prompt = call(deadline=0.0)
    assert prompt.text and prompt.left_out
    # Each image is looked at, one start of each is scored, and the prompt that is returned.
    assert tower.passes <= (30 * 3 if door in WITH_IMAGES else 3 * 6)


@pytest.mark.parametrize("door", [door for door in DOORS if door not in WITH_IMAGES])
@pytest.mark.parametrize("limit", [0, 1, 7, 40, 200, 1000])
def test_a_budget_is_for_the_whole_call_and_every_pass_is_counted(door: str, limit: int, tower: SlowTower) -> None:
    call = doors(tower)[door]
    tower.reset()
    prompt = call(max_evaluations=limit)
    templates = 3 if door == "in several templates" else 1
    assert prompt.text and tower.passes <= templates * (limit + 12)
    if templates == 1 and door != "distill each":
        assert prompt.evaluations <= limit + 6 and tower.passes <= prompt.evaluations + 2
    assert prompt.left_out or limit >= 40


@pytest.mark.parametrize("door", ["invert", "shortest", "distill", "distill a soft prompt", "invert many images"])
def test_without_limits_nothing_is_left_out(door: str, tower: SlowTower) -> None:
    prompt = doors(tower)[door](max_steps=3)
    assert prompt.left_out == () and len(prompt.attributions) == len(prompt.token_ids)
    if door.startswith("distill"):
        assert prompt.faithfulness.held_out is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize("door", [door for door in DOORS if door not in WITH_IMAGES])
def test_an_interrupt_at_any_moment_keeps_the_prompt(door: str, tower: SlowTower) -> None:
    call, found = doors(tower, 200)[door], []
    call(max_steps=2)
    tower.reset()
    call(max_steps=2, callback=lambda progress: found.append(tower.calls) if progress.step else None)
    calls, kept = tower.calls, 0
    for moment in sorted({1 + calls * part // 16 for part in range(16)} | {calls - 1, calls}):
        tower.reset()
        tower.interrupt_at = moment
        try:
            prompt = call(max_steps=2)
        except KeyboardInterrupt:
            assert moment <= found[0], f"a prompt was found before the call {moment} of {calls}"
            continue
        kept += 1
        assert prompt.text and prompt.stop_reason == "interrupted", moment
        assert prompt.text in [one.text for one in prompt.candidates]
    assert kept > 5


def test_a_callback_ends_what_is_measured_behind_a_search(tower: SlowTower) -> None:
    seen: list[int] = []

    def stop(progress: Any) -> bool:
        seen.append(tower.passes)
        return len(seen) > 3  # one call for each of the steps, then while phrases are compared

    prompt = PromptDistiller(tower.backend).distill(ENDLESS, max_steps=1, seed=0, progress=False, callback=stop)
    assert prompt.stop_reason == "cancelled" and prompt.text and prompt.left_out
    whole = PromptDistiller(tower.backend).distill(ENDLESS, max_steps=1, seed=0, progress=False)
    assert whole.text == prompt.text or seen


def test_what_a_callback_raises_behind_a_search_reaches_the_caller(tower: SlowTower) -> None:
    class Stopped(Exception):
        pass

    def stop(progress: Any) -> None:
        if tower.passes > searched:
            raise Stopped

    searched = 0
    distiller = PromptDistiller(tower.backend)
    quick = {"max_steps": 1, "seed": 0, "progress": False}
    searched = distiller.distill(LONG, **quick).evaluations * 3
    with pytest.raises(Stopped):
        distiller.distill(ENDLESS, callback=stop, **quick)


def test_passes_grow_with_the_length_of_a_prompt(tower: SlowTower) -> None:
    spent = []
    for words in (600, 1200, 2400):
        tower.reset()
        PromptDistiller(tower.backend).distill(
            " ".join(ENDLESS.split()[:words]), 4, max_steps=1, seed=0, progress=False
        )
        spent.append(tower.passes)
    assert spent[2] < 4.5 * spent[0]


def test_portability_within_a_deadline(tower: SlowTower) -> None:
    prompt = HardPrompt("red house", tuple(tower.vocabulary.encode("red house")), 1.0)
    soft = tower.vocabulary.embed(torch.tensor(tower.vocabulary.encode("red house")))
    pictures = [tower.picture("red house")] * 100
    models = [tower.backend] * 4

    def report(**limits: Any) -> Any:
        tower.reset()
        return portability_report(prompt, soft, tower.backend, models, pictures, **limits)

    whole, timed, counted = report(), report(deadline=3.0), report(max_evaluations=150)
    tower.reset()
    assert whole.left_out == () and len(whole.rows) == 5 and whole.evaluations == 5 * 66 + 1
    assert timed.left_out and report(deadline=3.0) and tower.now < 3.5
    assert counted.left_out and counted.evaluations <= 160
    assert report(deadline=0.0).rows[0].model == "slow" and tower.passes < 30
    assert "No room within the limits" in str(timed)


def test_audits_within_a_deadline(tower: SlowTower, tmp_path: Any) -> None:
    from hardprompts.distillation.audits import audits_of

    ids = torch.arange(75) % len(tower.vocabulary.allowed_ids)
    rows = tower.vocabulary.allowed_table[ids] + 0.1 * torch.randn(75, 32, generator=torch.Generator().manual_seed(0))
    SoftPrompt({"text_encoder": rows[:14]}, name="soft").save(tmp_path / "soft.safetensors", format="diffusers")

    def audit(**limits: Any) -> Any:
        tower.reset()
        (found,) = audits_of(tmp_path / "soft.safetensors", tower.backend, plots=True, decode=True, **limits)
        return found

    short = audit(deadline=1.0)
    assert tower.now < 1.5 and short.left_out and any("no time" in finding.text for finding in short.findings)
    assert short.geometry is not None and short.to_dict()["left_out"] == list(short.left_out)
    assert audit(deadline=60.0).left_out == ()
    tower.reset()
    tower.interrupt_at = 3
    (found,) = audits_of(tmp_path / "soft.safetensors", tower.backend, plots=True)
    assert found.stop_reason == "interrupted" and found.geometry is not None and found.robustness is None
