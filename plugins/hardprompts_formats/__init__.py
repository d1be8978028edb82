"""The formats that soft prompts are shared in, for `SoftPrompt.from_file` and `SoftPrompt.save`.

| name | holds | written by |
|---|---|---|
| `a1111` | `string_to_param` in a .pt file, one text encoder | AUTOMATIC1111's web UI, textual inversion's first code |
| `a1111-card` | the same in a PNG or WebP image; only read | AUTOMATIC1111's web UI |
| `kohya` | `emb_params`, or `clip_l` and `clip_g` for SDXL | kohya's sd-scripts, OneTrainer |
| `kohya-xti` | one soft prompt for each layer of a U-Net; only read | kohya's sd-scripts |
| `diffusers` | a tensor under its token; two files for SDXL | diffusers' training scripts |
| `pti` | `text_encoders_0` and `text_encoders_1`, or `emb` and `emb2`; only read | pivotal tuning |
| `comfyui` | a tensor under the name of each text encoder | OneTrainer, diffusers' advanced scripts |
| `comfyui-bundle` | any of these inside a LoRA, as `bundle_emb.NAME.`; only read | OneTrainer |
| `peft` | `prompt_embeddings` beside `adapter_config.json`: prompt tuning, p-tuning, CPT, multitask | PEFT |
| `list` | a list of tensors, or of dicts of them; only read | scripts |
| `tensor` | a bare tensor; only read | scripts |

Importing this package imports neither torch nor Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hardprompts.softprompts import SoftPromptFormat

# The marker of `hardprompts.hookimpl`, without what comes with it.
_hookimpl = pluggy.HookimplMarker("hardprompts")


@_hookimpl
def soft_prompt_formats() -> Mapping[str, SoftPromptFormat]:
    """The formats of this package, by name."""
    from hardprompts_formats.adapters import Peft
    from hardprompts_formats.bundles import Bundle
    from hardprompts_formats.cards import Card
    from hardprompts_formats.embeddings import A1111, XTI, ComfyUI, Diffusers, Kohya, ListOfDicts, PivotalTuning, Tensor

    return {
        "a1111": A1111(),
        "a1111-card": Card(),
        "kohya": Kohya(),
        "kohya-xti": XTI(),
        "diffusers": Diffusers(),
        "pti": PivotalTuning(),
        "peft": Peft(),
        "comfyui": ComfyUI(),
        "comfyui-bundle": Bundle(),
        "list": ListOfDicts(),
        "tensor": Tensor(),
    }
