"""The plugin is there, also where the project was installed before it had one."""

from collections.abc import Iterator

import pytest

import hardprompts_decoder
from hardprompts.inversion import proposers
from hardprompts.plugins import register, unregister


@pytest.fixture(autouse=True, scope="session")
def registered() -> Iterator[None]:
    """The scheme "decoder"."""
    if "decoder" in proposers():
        yield
        return
    register(hardprompts_decoder, "decoder")
    yield
    unregister("decoder")
