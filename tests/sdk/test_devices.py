"""A device that is not there is named, before any file is opened."""

import pytest
import torch

from hardprompts import load_backend
from hardprompts.devices import available_devices, checked_device
from hardprompts.errors import BackendError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)


@pytest.mark.usefixtures("two_gpus")
def test_devices_that_are_there_are_taken():
    assert available_devices() == ["cpu", "cuda:0", "cuda:1"]
    for name in ("cpu", "cuda", "cuda:1", "meta"):
        assert checked_device(name) == torch.device(name)
    assert checked_device(None) == torch.device("cuda")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["mps", "xpu", "xpu:1", "cuda:2", "cuda:7"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name, tmp_path):
    # The folder lacks everything, which would be blamed if it were opened first.
    with pytest.raises(BackendError, match=f"no device '{name}' here; this torch sees cpu, cuda:0, cuda:1$"):
        load_backend(f"transformers:{tmp_path}", device=name)


def test_a_word_that_is_no_device_is_refused():
    with pytest.raises(BackendError, match="unknown device 'gpu'; this torch sees cpu"):
        load_backend("emoji", device="gpu")
