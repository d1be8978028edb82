# The public names of hardprompts.hub; `__init__.py` imports each from here on first use.
from .card import CardPart, render_card
from .client import PullOptions, PushOptions, PushResult, pull_files, push_files
from .mixin import HubMixin, push_values, repository_files

__all__ = [
    "CardPart",
    "HubMixin",
    "PullOptions",
    "PushOptions",
    "PushResult",
    "pull_files",
    "push_files",
    "push_values",
    "render_card",
    "repository_files",
]
