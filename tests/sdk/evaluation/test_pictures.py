"""Judges that are functions, prompts against pictures, and distances place by place."""

import warnings

import pytest
import torch
from PIL import Image

from hardprompts import load_backend
from hardprompts.evaluation import diversities, image_similarities, perceptual_distances, prompt_image_similarities

RED, GREEN, BLUE = (Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue"))


def mean_color(pictures: list[Image.Image]) -> torch.Tensor:
    return torch.tensor([picture.resize((1, 1)).getpixel((0, 0)) for picture in pictures]).float()


def test_any_function_may_be_the_judge() -> None:
    assert image_similarities([[RED, BLUE], [BLUE]], [RED, BLUE], mean_color) == pytest.approx((0.5, 1.0))
    assert diversities([[RED, GREEN]], mean_color) == pytest.approx((1.0,))


def test_a_backbone_of_timm_is_such_a_function() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_efficientnet", pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    seen = image_similarities([[RED]], [RED], lambda pictures: model(torch.stack([transform(one) for one in pictures])))
    assert seen == pytest.approx((1.0,))


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (lambda pictures: torch.ones(len(pictures), 2, 2), r"shape \(pictures, features\)"),
        (lambda pictures: torch.full((len(pictures), 2), torch.nan), "NaN"),
    ],
)
def test_a_function_that_gives_something_else_is_named(judge, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        image_similarities([[RED]], [RED], judge)


def test_prompts_against_pictures() -> None:
    backend = load_backend("emoji:emoji-clip-reference")
    texts, pictures = ["a fox", "a tree"], [RED, BLUE]
    expected = (backend.encode_texts(texts) * backend.encode_images(pictures)).sum(dim=1).tolist()
    assert prompt_image_similarities(texts, pictures, backend) == pytest.approx(expected, abs=1e-6)
    assert prompt_image_similarities([], [], backend) == ()
    with pytest.raises(ValueError, match="1 prompts and 2 targets"):
        prompt_image_similarities(texts[:1], pictures, backend)


def test_the_distance_sees_pixels_between_minus_1_and_1() -> None:
    black, white = (Image.new("L", (4, 4), value) for value in (0, 255))

    def squared(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one - other).square().flatten(1).mean(dim=1)

    assert perceptual_distances([[black, white]], [black.resize((8, 8))], squared) == pytest.approx((2.0,))
    with pytest.raises(ValueError, match="no pictures"):
        perceptual_distances([[]], [black], squared)
    with pytest.raises(ValueError, match="finite numbers"):
        perceptual_distances([[black]], [black], lambda one, other: torch.full((1,), torch.nan))


def test_lpips_is_such_a_distance() -> None:
    lpips = pytest.importorskip("lpips")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")  # it asks as torchvision once did
        distance = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    red, blue = (one.resize((64, 64)) for one in (RED, BLUE))
    same, other = perceptual_distances([[red], [blue]], [red, red], distance)
    assert same == pytest.approx(0, abs=1e-6) and other != same
