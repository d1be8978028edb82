"""Soft prompts: what they are, how far they lie from natural language, and the tokens nearest to them."""

from hardprompts.softprompts.faithfulness import DistilledPrompt, Faithfulness, LostPhrase, Share
from hardprompts.softprompts.geometry import GeometryReport, analyze, nearest_tokens, rotated, shrunk, slerp
from hardprompts.softprompts.nearest import NearestDecoding, decode_nearest
from hardprompts.softprompts.prompt import ENCODER_WIDTHS, SoftPrompt

__all__ = [
    "ENCODER_WIDTHS",
    "DistilledPrompt",
    "Faithfulness",
    "GeometryReport",
    "LostPhrase",
    "NearestDecoding",
    "Share",
    "SoftPrompt",
    "analyze",
    "decode_nearest",
    "nearest_tokens",
    "rotated",
    "shrunk",
    "slerp",
]
