"""Matching of features: gradients against finite differences."""

import pytest
import torch
from toy_distillation import BACKEND, TOWER, VOCABULARY, embedded, noisy

from hardprompts.distillation.features import FeatureMatch, match_features
from hardprompts.distillation.matching import MeanMatch
from hardprompts.prompts import PromptTemplate


def test_the_gradient_of_the_mean_over_templates_is_that_of_finite_differences() -> None:
    soft = noisy("red house", 1.0).double()
    parts = []
    for text in ("{}", "the {} in snow"):
        match = match_features(BACKEND, [[soft.float()]], PromptTemplate(text))
        parts.append(FeatureMatch(TOWER, match.targets, match.weights, match.template))
    mean, groups = MeanMatch(tuple(parts)), torch.zeros(1, dtype=torch.long)
    at = embedded("old boat")[None].clone().requires_grad_()
    (grad,) = torch.autograd.grad(mean(at, groups).loss.sum(), at)
    way = torch.randn(at.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ends = [float(mean(at + step * way, groups).loss) for step in (-1e-2, 1e-2)]
    assert float((grad * way).sum()) == pytest.approx((ends[1] - ends[0]) / 2e-2, rel=2e-2, abs=1e-5)
    evaluation = mean(at.detach(), groups)
    assert evaluation.score is not None
    ids = torch.tensor([VOCABULARY.encode("old boat")])
    torch.testing.assert_close(evaluation.score, mean.score(ids, groups))
    assert float(mean.score(ids, groups)) == pytest.approx(1 - mean.distances(["old boat"], 0)[0], abs=1e-5)
