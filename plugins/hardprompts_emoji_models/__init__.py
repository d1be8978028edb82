"""The larger embedded models, in a distribution of their own: `emoji-sd` and `emoji-lm-large`.

They are opened by `hardprompts_emoji.path`, like the smaller ones, which are part of hardprompts itself.
"""

from pathlib import Path

MODELS = Path(__file__).resolve().parent / "models"
"""The folder with a folder for each model."""
