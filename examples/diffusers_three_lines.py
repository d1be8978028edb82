"""A prompt and a picture from an image, in three lines, with any text-to-image pipeline of diffusers.

python examples/diffusers_three_lines.py photo.jpg stable-diffusion-v1-5/stable-diffusion-v1-5
"""

import argparse

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from hardprompts_diffusers import enable_prompt_inversion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("model", help="folder or hub id of a pipeline")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    image, generator = Image.open(arguments.image), torch.Generator().manual_seed(arguments.seed)

    pipe = enable_prompt_inversion(DiffusionPipeline.from_pretrained(arguments.model))
    prompt = pipe.invert_prompt(image, method="clip+diffusion", generator=generator).prompts[0]
    picture = pipe(prompt, generator=generator).images[0]

    picture.save("inverted.png")
    print(f"{prompt!r} drew inverted.png")


if __name__ == "__main__":
    main()
