"""The latents of ``emoji-sd`` in closed form: the principal components of patches, as weights of an encoder.

Learning an autoencoder takes longer than all the rest on a small machine, and half of it can be written down:
a picture's 8 x 8 patches become their first 32 principal components, which the layers of ``AutoencoderKL``
compute once their weights are set so. Only the decoder is learned (``train_sd_decoder``), and since the
latents are known before it is, the denoiser can be trained at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from hardprompts_emoji.recipe.loop import save_state
from hardprompts_emoji.recipe.sd_models import LATENT_CHANNELS, VAE_NORM_GROUPS

FILE = "codec.pt"
PATCH = 8
PICTURES = 20_000
"""How many pictures the components are those of."""
_ANCHOR = 64.0
"""Value of a constant channel in every group: beside it the latents hardly move the group's deviation."""
_LOG_VARIANCE = -10.0


def to_pixels(pictures: Tensor) -> Tensor:
    """Return uint8 pictures as the autoencoder takes them: fp32 in [-1, 1], channels last."""
    return pictures.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


@dataclass(frozen=True)
class Codec:
    """An affine map from patches to latents.

    Attributes:
        weight: (32, 3 * 8 * 8); columns by channel, row and column of the pixel, as ``pixel_unshuffle`` orders them.
        bias: (32,).
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, pictures: Tensor) -> Codec:
        """Return the map for (n, 3, 64, 64) uint8 pictures.

        A latent's deviation is the root of the component's, and the mean square of all is 1: whitened
        they would give noise of no importance the weight of the outline, untouched the background's
        color would be all that the denoiser learns.
        """
        patches = functional.pixel_unshuffle(to_pixels(pictures), PATCH).permute(0, 2, 3, 1).reshape(-1, 3 * PATCH**2)
        mean = patches.mean(0)
        variances, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        deviations = variances.flip(0)[:LATENT_CHANNELS].sqrt()
        scale = (LATENT_CHANNELS / deviations.sum()).sqrt() / deviations.sqrt()
        weight = (vectors.flip(1)[:, :LATENT_CHANNELS] * scale).T.contiguous()
        return cls(weight, -weight @ mean)

    @classmethod
    def of_folder(cls, folder: Path, pictures: Tensor) -> Codec:
        """Return the map that a work folder keeps; if it has none yet, fit one and keep it."""
        path = folder / FILE
        if path.exists():
            return cls(**torch.load(path, weights_only=True, map_location=pictures.device))
        codec = cls.fit(pictures[:PICTURES])
        save_state(path, **codec.state_dict())
        return codec

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Return the (n, 32, 8, 8) latents of (n, 3, 64, 64) uint8 pictures, fp32."""
        kernel = self.weight.view(len(self.weight), 3, PATCH, PATCH).to(pictures.device)
        return functional.conv2d(to_pixels(pictures).contiguous(), kernel, self.bias.to(pictures.device), stride=PATCH)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what ``Codec(**state)`` takes."""
        return {"weight": self.weight, "bias": self.bias}

    @torch.no_grad()
    def set_encoder(self, vae: AutoencoderKL) -> None:
        """Write the map into the encoder's weights, and the identity into the convolution after it.

        Pixels are sorted into channels by the strided convolutions; the blocks between add nothing.
        Before the last convolution stand a normalization and SiLU: a constant channel in every group
        makes the first a division by a number that is nearly the same for every picture, and the second
        is undone by having each latent twice, since silu(z) - silu(-z) = z.
        """
        encoder = vae.encoder
        for layer in encoder.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter)
        colors = torch.arange(3)
        encoder.conv_in.weight[colors, colors, 1, 1] = 1
        blocks, channels = encoder.down_blocks, 3
        for i, block in enumerate(blocks[:-1]):
            _pass_on(block.resnets[0], channels)
            target: nn.Conv2d = block.downsamplers[0].conv
            if i < len(blocks) - 2:
                _sort_pixels(target, channels)
                channels *= 4
        # The last strided convolution sees every pixel of a patch once, in four taps of 48 channels.
        order = _pixel_order(len(blocks) - 2)
        taps = self.weight.view(LATENT_CHANNELS, 3, 2, PATCH // 2, 2, PATCH // 2)
        for row in range(2):
            for column in range(2):
                tap = taps[:, :, row, :, column, :].reshape(LATENT_CHANNELS, -1)
                target.weight[:LATENT_CHANNELS, :channels, row, column] = tap[:, order]
        assert target.bias is not None
        target.bias[:LATENT_CHANNELS] = self.bias
        self._set_borders(vae)

    def _set_borders(self, vae: AutoencoderKL) -> None:
        last: ResnetBlock2D = vae.encoder.down_blocks[-1].resnets[0]
        width = last.conv_shortcut.out_channels // VAE_NORM_GROUPS
        each = LATENT_CHANNELS // VAE_NORM_GROUPS
        norm, final = vae.encoder.conv_norm_out, vae.encoder.conv_out
        norm.weight.fill_(((2 * _ANCHOR**2 + 2 * each) / width) ** 0.5)
        nn.init.zeros_(norm.bias)
        for latent in range(LATENT_CHANNELS):
            first = latent // each * width + latent % each * 2
            for channel, sign in ((first, 1.0), (first + 1, -1.0)):
                last.conv_shortcut.weight[channel, latent] = sign
                final.weight[latent, channel, 1, 1] = sign
        for group in range(VAE_NORM_GROUPS):
            free = group * width + 2 * each
            last.conv_shortcut.bias[free], last.conv_shortcut.bias[free + 1] = _ANCHOR, -_ANCHOR
        final.bias[LATENT_CHANNELS:] = _LOG_VARIANCE
        nn.init.eye_(vae.quant_conv.weight[:, :, 0, 0])
        nn.init.zeros_(vae.quant_conv.bias)


def _pass_on(block: Any, channels: int) -> None:
    """Let the first channels through; without a shortcut's convolution they pass as they are."""
    if block.conv_shortcut is not None:
        kept = torch.arange(channels)
        block.conv_shortcut.weight[kept, kept] = 1


def _sort_pixels(convolution: nn.Conv2d, channels: int) -> None:
    """Make the four pixels of a 2 x 2 square four times as many channels."""
    kept = torch.arange(channels)
    for row in range(2):
        for column in range(2):
            convolution.weight[(2 * row + column) * channels + kept, kept, row, column] = 1


def _pixel_order(levels: int) -> Tensor:
    """Return where, in a patch by color, row and column, each channel after some sorting comes from."""
    size = 2**levels
    places = torch.arange(3 * size * size).view(1, 3, size, size)
    for _ in range(levels):
        corners = [places[:, :, row::2, column::2] for row in range(2) for column in range(2)]
        places = torch.cat(corners, dim=1)
    return places.flatten()
