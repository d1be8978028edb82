"""Devices, dtypes, numbers and objects that cannot be used are named before any time is spent."""

import copy
import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hardprompts import PromptInverter, load_backend
from hardprompts.causes.networks import check_weights
from hardprompts.devices import checked_dtype
from hardprompts.errors import BackendError, ImageError, NonFiniteError, SearchError, UnknownName
from hardprompts.images import load_images

CPU = torch.device("cpu")
RED = Image.new("RGB", (64, 64), "red")
SHORT: dict[str, Any] = {"max_steps": 1, "restarts": 1, "num_tokens": 2, "progress": False, "seed": 0}


@pytest.fixture(scope="module")
def emoji() -> Any:
    return load_backend("emoji", device="cpu")


#: Calls, and what is said of them. The checks of types that tests are run with would be faster than ours, so the
#: calls are made in another process.
CALLS = {
    "open('nowhere', device='gpu')": "unknown device 'gpu'; this torch sees cpu",
    "open('nowhere', device='0')": "unknown device '0'; this torch sees cpu",
    "open('nowhere', device='npu')": "unknown device 'npu'; this torch sees cpu",
    "open('nowhere', device=1.5)": "unknown device '1.5'; this torch sees cpu",
    "open('nowhere', device='meta')": "the device 'meta' cannot calculate in torch.float32: ",
    "open('nowhere', device='hpu')": "the device 'hpu' cannot calculate in torch.float32: ",
    "open('nowhere', device='vulkan')": "the device 'vulkan' cannot calculate in torch.float32: ",
    "open('nowhere', dtype='half')": "must be a torch.dtype, got 'half'; write torch.float16",
    "open('nowhere', dtype='bfloat16')": "write torch.bfloat16",
    "open('nowhere', dtype='fp8')": "got 'fp8'; write torch.float16, say",
    "open('nowhere', dtype=float)": "must be a torch.dtype",
    "open('nowhere', dtype=np.float32)": "must be a torch.dtype",
    "open('nowhere', dtype=torch.int8)": "not in torch.int8",
    "open('nowhere', dtype=torch.bool)": "not in torch.bool",
    "open('nowhere', dtype=torch.float8_e4m3fn)": "not in torch.float8_e4m3fn.*torch.bfloat16",
    "open('nowhere', dtype=torch.complex64)": "not in torch.complex64",
    "hardprompts.load_backend(Path('x'))": "a name such as 'emoji' or a Backend, got PosixPath",
    "hardprompts.PromptInverter(None)": "got NoneType|a NoneType is not a model's name",
    "hardprompts.PromptInverter(Path('x'))": "got PosixPath|a PosixPath is not a model's name",
    "hardprompts.PromptInverter(torch.nn.Linear(1, 1))": "got Linear|a Linear is not a model's name",
    "hardprompts.PromptDistiller(Path('x'))": "got PosixPath|a PosixPath is not a model's name",
    "hardprompts.PromptDistiller([None])": "got NoneType|a NoneType is not a model's name",
    "options(num_tokens='3')": "num_tokens must be a whole number, got '3'",
    "options(num_tokens=2.0)": "num_tokens must be a whole number, got 2.0",
    "options(restarts=True)": "restarts must be a whole number, got True",
    "options(max_steps=1.5)": "max_steps must be a whole number, got 1.5",
    "options(patience='2')": "patience must be a whole number, got '2'",
    "options(deadline='3')": "deadline must be a number, got '3'",
    "options(deadline=float('nan'))": "deadline must be finite",
    "options(token_cost=[1])": "token_cost must be a number",
    "options(num_tokens=np.int64(2), deadline=np.float32(2))": "nothing",
    "load_images(image for image in [])": "generator is not an image.*gone through only once.*list",
    "load_images(map(str, []))": "map is not an image.*gone through only once",
    "load_images(open_file)": "is not an image.*PIL.Image.open",
}

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np, torch
import hardprompts
from hardprompts.images import load_images
from hardprompts.inversion.options import InversionOptions as options

def open(name, device="cpu", **more):
    return hardprompts.load_backend("transformers:" + name, device=device, **more)

said, open_file = [], sys.stdin
for call in json.load(sys.stdin):
    try:
        eval(call)
        said.append("nothing")
    except (hardprompts.HardPromptsError, ValueError, TypeError) as error:
        said.append(f"{type(error).__name__}: {error}")
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What is said of each of the calls."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(list(CALLS)), capture_output=True, text=True, check=True
    )
    return dict(zip(CALLS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_what_cannot_be_used_is_named_before_a_file_is_opened(call: str, said: dict[str, str]) -> None:
    assert re.search(CALLS[call], said[call]), said[call]


def test_a_device_that_lacks_a_dtype_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    assert checked_dtype(None, CPU) == torch.float32 and checked_dtype(torch.float16, CPU) == torch.float16
    monkeypatch.setattr(torch, "ones", refused)
    with pytest.raises(BackendError, match="'cpu' cannot calculate in torch.float64: Cannot convert a MPS") as caught:
        checked_dtype(torch.float64, CPU)
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_model_without_a_scheme_is_told_how_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="as in 'transformers:openai/clip-vit-large-patch14'"):
        load_backend("openai/clip-vit-large-patch14")
    with pytest.raises(UnknownName, match=f"as in 'transformers:{tmp_path}'"):
        load_backend(str(tmp_path))


# --- images -------------------------------------------------------------------------------


def closed() -> Image.Image:
    image = RED.copy()
    image.close()
    return image


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: np.array([[[1, 2, 3]]], dtype=object), "holds objects and not numbers"),
        (closed, "the PIL image is closed; load it before"),
        (lambda: torch.zeros(3, 64, 64, device="meta"), "on the meta device, without values"),
        (lambda: torch.zeros(3, 64, 64).to_sparse(), "layout torch.sparse_coo.*to_dense"),
        (lambda: np.full((64, 64, 3), np.nan), "NaN or infinite"),
        (lambda: np.full((64, 64, 3), 255.0), "divide 0 to 255 by 255"),
        (lambda: torch.zeros(3, 64, 64, dtype=torch.complex64), "says no range"),
    ],
)
def test_images_that_cannot_be_used_are_named(make: Any, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        load_images(make())


def test_images_in_other_states_are_read() -> None:
    for image in (torch.zeros(3, 64, 64, requires_grad=True), torch.zeros(3, 64, 64, dtype=torch.bfloat16)):
        assert load_images(image)[0].getpixel((0, 0)) == (0, 0, 0)


# --- models -------------------------------------------------------------------------------


def test_gradients_under_inference_mode_are_refused_and_under_no_grad_taken(emoji: Any) -> None:
    inverter = PromptInverter(emoji, method="pez")
    with torch.inference_mode(), pytest.raises(SearchError, match=r"under torch.inference_mode\(\)"):
        inverter.invert(RED, **SHORT)
    with torch.no_grad():
        assert inverter.invert(RED, **SHORT).text == inverter.invert(RED, **SHORT).text


def test_a_model_that_is_opened_under_inference_mode_can_be_searched() -> None:
    with torch.inference_mode():
        opened = load_backend("emoji", device="cpu")
    assert PromptInverter(opened, method="pez").invert(RED, **SHORT).text


def test_weights_that_cannot_be_used_are_named() -> None:
    with pytest.raises(BackendError, match="my model: the weights 'weight' are not in memory"):
        check_weights(torch.nn.Linear(2, 2, device="meta"), "my model")
    with torch.inference_mode():
        made = torch.nn.Linear(2, 2)
    with pytest.raises(BackendError, match="my model: the weights 'weight' were made under torch.inference_mode"):
        check_weights(made, "my model")
    check_weights(torch.nn.Linear(2, 2), "my model")


def test_weights_that_are_not_finite_are_named(emoji: Any) -> None:
    transformers = pytest.importorskip("transformers")
    from hardprompts_transformers.backend import from_model
    from hardprompts_transformers.language_models import from_language_model

    model = copy.deepcopy(emoji.text_encoder.model)
    model.text_model.encoder.layers[0].mlp.fc1.weight.data[0, 0] = math.nan
    with pytest.raises(BackendError, match="my clip: the weights 'text_model.*fc1.weight' hold NaN"):
        from_model(model, emoji.text_encoder.tokenizer, name="my clip")
    tiny = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=len(emoji.text_encoder.tokenizer) + 5)
    model = transformers.GPT2LMHeadModel(tiny)
    model.transformer.h[0].mlp.c_fc.weight.data[0, 0] = math.inf
    with pytest.raises(BackendError, match="my gpt: the weights 'transformer.*c_fc.weight' hold NaN or infinity"):
        from_language_model(model, emoji.text_encoder.tokenizer, name="my gpt")


def test_images_whose_features_are_not_finite_are_named(emoji: Any) -> None:
    class Broken:
        def encode_images(self, images: list[Image.Image]) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0], [math.nan, 0.0]])

    broken = dataclasses.replace(emoji, image_encoder=Broken())
    with pytest.raises(NonFiniteError, match="features of image 2 of 2 are NaN"):
        broken.encode_images([RED, RED])
