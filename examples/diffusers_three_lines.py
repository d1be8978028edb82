"""A prompt and a picture from an image, in three lines, with any text-to-image pipeline of diffusers.

python examples/diffusers_three_lines.py
python examples/diffusers_three_lines.py photo.jpg stable-diffusion-v1-5/stable-diffusion-v1-5
"""

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image

import hardprompts_emoji
from hardprompts_diffusers import enable_prompt_inversion

EXAMPLE = Path(hardprompts_emoji.__file__).parent / "examples" / "fox-purple-flat.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=EXAMPLE)
    parser.add_argument("model", nargs="?", help="folder or hub id of a pipeline (default: the embedded emoji-sd)")
    parser.add_argument("--match", default="clip", choices=["clip", "diffusion", "clip+diffusion"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="inverted.png")
    arguments = parser.parse_args()
    image, generator = Image.open(arguments.image), torch.Generator().manual_seed(arguments.seed)
    model = arguments.model or hardprompts_emoji.path("emoji-sd")

    pipe = enable_prompt_inversion(DiffusionPipeline.from_pretrained(model))
    prompt = pipe.invert_prompt(image, match=arguments.match, generator=generator).prompts[0]
    picture = pipe(prompt, generator=generator).images[0]

    picture.save(arguments.output)
    print(f"{prompt!r} drew {arguments.output}")


if __name__ == "__main__":
    main()
