"""A denoiser's conditioning as features."""

import pytest
import torch
from toy_denoiser import predictor

from hardprompts import BackendError, PromptDistiller
from hardprompts.diffusion.features import ConditioningFeatures, backend_of, conditioning_encoder
from hardprompts.diffusion.inverter import DenoisingInverter
from hardprompts.encoders import Backend, ConditioningEncoder, NoisePredictor
from hardprompts.testing import check_backend, toy_backend


def test_conditioning_as_features_keeps_the_backends_contract() -> None:
    model = predictor()
    backend = Backend("toy", ConditioningFeatures(model), None, torch.device("cpu"), noise_predictor=model)
    check_backend(backend)
    assert DenoisingInverter(backend).predictor is model


class TextEncoders:
    """What the toy denoiser is conditioned by, without the denoiser."""

    def __init__(self) -> None:
        model = predictor()
        self.name, self.vocabulary, self.max_tokens = model.name, model.vocabulary, model.max_tokens
        self.condition, self.condition_text = model.condition, model.condition_text


def test_text_encoders_alone_are_matched_as_those_of_the_denoiser() -> None:
    alone, whole = TextEncoders(), predictor()
    assert isinstance(alone, ConditioningEncoder) and not isinstance(alone, NoisePredictor)
    assert isinstance(whole, ConditioningEncoder) and isinstance(whole, NoisePredictor)
    backends = [backend_of(alone), backend_of(whole)]
    assert [backend.noise_predictor for backend in backends] == [None, whole]
    assert [conditioning_encoder(backend) for backend in backends] == [alone, whole]
    assert conditioning_encoder(toy_backend()) is None

    original = "red house near river"
    options = {"num_tokens": 2, "max_steps": 5, "restarts": 2, "seed": 0, "progress": False}
    found = [PromptDistiller(backend, "pez").distill(original, **options) for backend in backends]
    assert found[0].token_ids == found[1].token_ids and found[0].score == found[1].score
    with pytest.raises(BackendError, match="has no denoiser"):
        PromptDistiller(alone).distill(original, match="noise", **options)
