"""How much of the effect is kept: the share, by hand, on what was held out, and stored."""

import json
from pathlib import Path

import pytest
import torch
from toy_distillation import BACKEND, DISTILLER, LONG, QUICK, TOWER, embedded, noisy

from hardprompts import DistilledPrompt, FileFormatError, HardPrompt
from hardprompts.distillation.faithfulness import Faithfulness, Share


def test_the_faithfulness_is_the_share_of_the_gap_that_is_closed() -> None:
    soft, template = noisy("old boat", 1.0), "the {} in snow"
    prompt = DISTILLER.distill(soft, num_tokens=2, templates=template, held_out=["big {}"], **QUICK)
    own = prompt.faithfulness
    assert own is not None and own.held_out is not None and own.held_out.templates == ("big {}",)
    for share, inside in ((own.matched, template), (own.held_out, "big {}")):
        before, after = (embedded(part) for part in inside.split("{}"))
        row = torch.cat([before, soft, after])[None]
        target = torch.nn.functional.normalize(TOWER.encode(row), dim=1)[0]
        texts = [inside.replace("{}", prompt.text), inside.replace("{}", "")]
        distances = 1 - BACKEND.encode_texts(texts) @ target
        assert share.distance == pytest.approx(float(distances[0]), abs=1e-5)
        assert share.empty == pytest.approx(float(distances[1]), abs=1e-5)
        assert share.value == pytest.approx(1 - share.distance / min(share.empty, share.random))
    again = DISTILLER.faithfulness(prompt.text, soft, num_tokens=2, templates=template, held_out=["big {}"])
    assert again.matched.value == pytest.approx(own.matched.value, abs=1e-5)


def test_faithfulness_may_be_negative_and_never_divides_by_nothing() -> None:
    assert Share("q", ("{}",), 2.0, 1.0, 3.0).value == -1
    assert Share("q", ("{}",), 0.0, 0.0, 0.0).value == 1
    away = DISTILLER.faithfulness("snow snow snow", embedded("red house"), num_tokens=2)
    itself = DISTILLER.faithfulness("red house", embedded("red house"), num_tokens=2)
    assert itself.matched.value == pytest.approx(1, abs=1e-4) and away.matched.value < 0.5
    assert "held out 1.00" in str(itself)


def test_it_is_stored_as_any_hard_prompt_and_read_back_whole(tmp_path: Path) -> None:
    prompt = DISTILLER.distill(LONG, num_tokens=3, max_steps=3, **QUICK)
    prompt.save_pretrained(tmp_path)
    plain, whole = HardPrompt.from_pretrained(tmp_path), DistilledPrompt.from_pretrained(tmp_path)
    assert plain.to_dict() == prompt.to_dict() and isinstance(whole, DistilledPrompt)
    assert whole.faithfulness == prompt.faithfulness and whole.lost == prompt.lost
    json.dumps(prompt.to_dict(), allow_nan=False)
    assert whole == prompt and whole.to_dict() == plain.to_dict()
    for broken in ({"faithfulness": {"matched": 3}}, {"lost": [{"text": "a"}]}, {"lost": 3}):
        with pytest.raises(FileFormatError):
            DistilledPrompt.from_dict({**DistilledPrompt("a", (0,), 0.0).to_dict(), "provenance": broken})
    assert DistilledPrompt("a", (0,), 0.0).faithfulness is None and DistilledPrompt("a", (0,), 0.0).lost == ()
    with pytest.raises(FileFormatError, match="not finite"):
        Faithfulness.from_dict(
            {"matched": {"quantity": "", "templates": [], "distance": float("nan"), "empty": 1, "random": 1}}
        )


def test_faithfulness_is_held_out_where_there_is_room_only() -> None:
    prompt = DISTILLER.distill(LONG, num_tokens=16, held_out=["the {}", "{} in the night"], max_steps=0, **QUICK)
    assert prompt.faithfulness is not None and prompt.faithfulness.held_out is None
    assert "not measured" in str(prompt.faithfulness)
