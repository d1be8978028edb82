"""open_clip models as backends: `open_clip:ViT-H-14/laion2b_s32b_b79k`.

Names, all behind "open_clip:":

| name | opens |
|---|---|
| `ViT-L-14/openai` | an architecture and a tag of its weights, as `open_clip.list_pretrained()` names them |
| `ViT-L-14//models/weights.safetensors` | an architecture and a file; what follows the first slash is the path |
| `local-dir:/models/clip` | a folder with `open_clip_config.json` and the weights |
| `hf-hub:org/name` | a repository on the Hugging Face Hub |

Importing this package imports neither open_clip nor torchvision.
"""

from collections.abc import Mapping

import torch

from hardprompts.encoders import Backend, OpenBackend
from hardprompts.errors import MissingExtra
from hardprompts.hookspecs import hookimpl


def open_backend(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
    """A model of open_clip, by architecture and weights.

    For example `open_clip:ViT-L-14/openai`, `open_clip:ViT-H-14/laion2b_s32b_b79k`,
    `open_clip:local-dir:/models/clip` or `open_clip:hf-hub:org/name`; the module's docstring has all.

    Raises:
        MissingExtra: open_clip is not installed.
        BackendError: the architecture, tag, file, folder or repository is unknown, missing,
            damaged or of another architecture, or the Hub cannot be reached.
    """
    try:
        import open_clip  # noqa: F401
    except ImportError as error:
        raise MissingExtra("an open_clip model", "openclip", error) from error
    from hardprompts_openclip.backend import load

    return load(name, device=device, dtype=dtype)


@hookimpl
def backends() -> Mapping[str, OpenBackend]:
    """The scheme "open_clip"."""
    return {"open_clip": open_backend}
