"""What all tests share: no model hub, a toy model, and only what an installation brings."""

import os

# Before anything imports huggingface_hub, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# One thread each, before anything imports torch: workers of pytest-xdist share the cores, and small models gain nothing
# by more. Commands that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import shapes

# `--jaxtyping-packages` checks every call of ours with it.
jaxtyping.jaxtyped = shapes.jaxtyped  # type: ignore[misc,assignment]

ROOT = Path(__file__).parent.parent

# What tests share stands beside this file; pytest explains the assertions in it too.
pytest.register_assert_rewrite(
    *(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("conftest", "shapes"))
)


def pytest_configure(config: pytest.Config) -> None:
    """What is kept from run to run is kept in pytest's cache, not in the user's."""
    if config.pluginmanager.has_plugin("cacheprovider"):
        os.environ["HARDPROMPTS_CACHE"] = str(config.cache.mkdir("hardprompts"))


class ToyPlugin:
    """What a plugin module would be: the toy model as `--model toy`."""

    def __init__(self) -> None:
        from hardprompts import hookimpl
        from hardprompts.testing import toy_backend

        self.backends = hookimpl(lambda: {"toy": toy_backend})


@pytest.fixture
def float64_clip() -> Iterator[None]:
    """CLIP of transformers runs in float64, under every release.

    Older ones fill a mask of the default dtype with the smallest number of the model's dtype, which float32 does not hold.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def toy_plugin() -> Iterator[str]:
    """The name of a registered model of a hundred words, "toy"; unregistered after the test."""
    from hardprompts import plugins

    plugins.register(ToyPlugin(), "toy")
    yield "toy"
    plugins.unregister("toy")
