"""A denoiser's conditioning as features."""

import torch
from toy_denoiser import predictor

from hardprompts.diffusion.features import ConditioningFeatures
from hardprompts.diffusion.inverter import DenoisingInverter
from hardprompts.encoders import Backend
from hardprompts.testing import check_backend


def test_conditioning_as_features_keeps_the_backends_contract() -> None:
    model = predictor()
    backend = Backend("toy", ConditioningFeatures(model), None, torch.device("cpu"), noise_predictor=model)
    check_backend(backend)
    assert DenoisingInverter(backend).predictor is model
