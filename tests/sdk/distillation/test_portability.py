"""What text and soft prompts are worth to another model."""

import pytest
import torch
from toy_distillation import BACKEND, TOWER, VOCABULARY, embedded, noisy

from hardprompts import HardPrompt
from hardprompts.distillation.portability import nearest_above, portability_report
from hardprompts.testing import toy_backend


def test_the_portability_report_tells_what_text_and_soft_prompt_are_worth_elsewhere() -> None:
    other = toy_backend()
    soft = noisy("red house", 4.0)
    picture = TOWER.picture("red house")
    hard = HardPrompt("red house", tuple(VOCABULARY.encode("red house")), 1.0)
    report = portability_report(hard, embedded("red house"), BACKEND, [other], picture)
    assert [row.model for row in report.rows] == ["toy", "toy"] and report.nearest_text == "red house"
    for row in report.rows:
        assert row.hard == pytest.approx(row.nearest) and row.hard_share == pytest.approx(1, abs=1e-4)
    far = portability_report(hard, soft, BACKEND, [other], picture)
    assert far.rows[1].hard > far.rows[1].nearest and str(far).count("\n") == 3
    assert nearest_above(embedded("red house"), VOCABULARY) == "red house"
    assert nearest_above(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), VOCABULARY) == ""
