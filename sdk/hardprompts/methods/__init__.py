"""The search methods that come with hardprompts: one published method, one file."""

from collections.abc import Callable, Mapping

from hardprompts.hookspecs import hookimpl
from hardprompts.methods.arca import ARCA
from hardprompts.methods.autoprompt import AutoPrompt
from hardprompts.methods.autoprompt_sgd import AutoPromptSGD
from hardprompts.methods.banks import PhraseTable, default_bank, read_bank
from hardprompts.methods.beam import BeamSearch
from hardprompts.methods.build_refine import BuildRefine
from hardprompts.methods.evolution import Evolution
from hardprompts.methods.fluentprompt import FluentPrompt
from hardprompts.methods.gbda import GBDA
from hardprompts.methods.gcg import GCG
from hardprompts.methods.mac import MAC
from hardprompts.methods.pez import PEZ
from hardprompts.methods.pez_bank import PEZBank
from hardprompts.methods.pez_refine import PEZRefine
from hardprompts.methods.ph2p import PH2P
from hardprompts.methods.ph2p_refine import PH2PRefine
from hardprompts.methods.phrase_bank import PhraseBank
from hardprompts.methods.racing import Race
from hardprompts.methods.random_search import RandomSearch
from hardprompts.methods.refine import Refine
from hardprompts.methods.soft import PromptTuning
from hardprompts.search.protocol import Search

__all__ = [
    "ARCA",
    "GBDA",
    "GCG",
    "MAC",
    "PEZ",
    "PH2P",
    "AutoPrompt",
    "AutoPromptSGD",
    "BeamSearch",
    "BuildRefine",
    "Evolution",
    "FluentPrompt",
    "PEZBank",
    "PEZRefine",
    "PH2PRefine",
    "PhraseBank",
    "PhraseTable",
    "PromptTuning",
    "Race",
    "RandomSearch",
    "Refine",
    "default_bank",
    "read_bank",
]


@hookimpl
def search_methods() -> Mapping[str, Callable[[], Search]]:
    """The methods that search.

    Chance (`RandomSearch`), soft prompts (`PromptTuning`) and one phrase of each kind (`PhraseBank.classic`), none
    of which beats random prompts at as many passes by its nature, are there to compare with.
    """
    return {
        "pez": PEZ,
        "refine": Refine,
        "build+refine": BuildRefine,
        "pez+refine": PEZRefine,
        "evolution": Evolution,
        "ph2p+refine": PH2PRefine,
        "ph2p": PH2P,
        "ph2p-code": PH2P.code,
        "ph2p-lbfgs": PH2P.lbfgs,
        "autoprompt": AutoPrompt,
        "hotflip": AutoPrompt.hotflip,
        "autoprompt-sgd": AutoPromptSGD,
        "fluentprompt": FluentPrompt,
        "gcg": GCG,
        "mac": MAC,
        "gbda": GBDA,
        "arca": ARCA,
        "greedy": RandomSearch.greedy,
        "phrase-bank": PhraseBank,
        "phrase-bank-fast": PhraseBank.fast,
        "phrase-bank-negative": PhraseBank.negative,
        "pez+bank": PEZBank,
        "beam": BeamSearch,
    }
