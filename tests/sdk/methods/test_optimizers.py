"""AdamW of one tensor against torch's."""

import torch

from hardprompts.methods.adamw import AdamW


def test_steps_are_those_of_torch_number_for_number() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(3, 8, 16, generator=generator)
    theirs = ours.clone()
    optimizer, reference = AdamW(ours, 0.1, 0.2), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.2, foreach=False)
    for step in range(50):
        grad = torch.randn(ours.shape, generator=generator) * (0.0 if step == 7 else 10.0 ** (step % 5 - 3))
        optimizer.step(grad)
        theirs.grad = grad.clone()
        reference.step()
        assert torch.equal(ours, theirs)
