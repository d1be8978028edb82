"""Makes a clone of this repository in ComfyUI's custom_nodes a node pack; see docs/comfyui.md.

Outside of ComfyUI this file does nothing: the packages are in `sdk` and `plugins`.
"""

import sys

if "folder_paths" in sys.modules:  # ComfyUI's own; pytest imports this file too
    from .comfyui_nodes import comfy_entrypoint

    WEB_DIRECTORY = "./comfyui_nodes/web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
