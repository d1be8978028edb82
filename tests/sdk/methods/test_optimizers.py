"""Optimizers of soft prompts: fused AdamW against the plain one."""

import torch

from hardprompts.methods.optimizers import adamw


def test_adamw_takes_the_steps_of_torchs_plain_one_whatever_the_strides_of_a_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(3, 8, 16, generator=generator)
    theirs = ours.clone()
    step = adamw(ours, 0.1, 0.2)
    reference = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.2, foreach=False, fused=False)
    for number in range(50):
        grad = torch.randn(3, 16, 8, generator=generator) * (0.0 if number == 7 else 10.0 ** (number % 5 - 3))
        step(grad.transpose(1, 2))
        theirs.grad = grad.transpose(1, 2)
        reference.step()
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
