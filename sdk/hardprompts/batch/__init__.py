"""A prompt for each of many pictures: from folders, shards and tables into one file, on one machine or on many.

    from hardprompts.batch import estimate, invert_many

    print(estimate("photos", model="open_clip:ViT-L-14/openai", price_per_hour=2.5))
    invert_many("photos", "prompts.jsonl", model="open_clip:ViT-L-14/openai")

The output is a function of the pictures and the settings: a run that was stopped and begun again, and one on
several workers, write what an undisturbed run of one process writes.
"""

from hardprompts.batch.estimates import Estimate, estimate
from hardprompts.batch.records import Record
from hardprompts.batch.run import BatchProgress, BatchReport, invert_many
from hardprompts.batch.sources import Source, open_source

__all__ = [
    "BatchProgress",
    "BatchReport",
    "Estimate",
    "Record",
    "Source",
    "estimate",
    "invert_many",
    "open_source",
]
