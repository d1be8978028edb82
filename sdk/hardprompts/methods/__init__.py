"""The search methods that come with hardprompts: one published method, one file."""

from collections.abc import Callable, Mapping

from hardprompts.hookspecs import hookimpl
from hardprompts.methods.autoprompt import AutoPrompt
from hardprompts.methods.autoprompt_sgd import AutoPromptSGD
from hardprompts.methods.evolution import Evolution
from hardprompts.methods.fluentprompt import FluentPrompt
from hardprompts.methods.gcg import GCG
from hardprompts.methods.pez import PEZ
from hardprompts.methods.pez_refine import PEZRefine
from hardprompts.methods.ph2p import PH2P
from hardprompts.methods.random_search import RandomSearch
from hardprompts.methods.refine import Refine
from hardprompts.methods.soft import PromptTuning
from hardprompts.search import Search

__all__ = [
    "GCG",
    "PEZ",
    "PH2P",
    "AutoPrompt",
    "AutoPromptSGD",
    "Evolution",
    "FluentPrompt",
    "PEZRefine",
    "PromptTuning",
    "RandomSearch",
    "Refine",
]


@hookimpl
def search_methods() -> Mapping[str, Callable[[], Search]]:
    """The methods that search: chance (`RandomSearch`) and soft prompts (`PromptTuning`) are there to compare with."""
    return {
        "pez": PEZ,
        "refine": Refine,
        "pez+refine": PEZRefine,
        "evolution": Evolution,
        "ph2p": PH2P,
        "ph2p-code": PH2P.code,
        "ph2p-lbfgs": PH2P.lbfgs,
        "autoprompt": AutoPrompt,
        "hotflip": AutoPrompt.hotflip,
        "autoprompt-sgd": AutoPromptSGD,
        "fluentprompt": FluentPrompt,
        "gcg": GCG,
        "greedy": RandomSearch.greedy,
    }
