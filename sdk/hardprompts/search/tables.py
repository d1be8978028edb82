"""What lies in a device's memory as long as a search runs: models, and the tables that a search makes."""

from collections.abc import Sequence

from hardprompts.search.memory import Room
from hardprompts.search.protocol import Search, WordSearch
from hardprompts.towers.memory import bytes_of, held_bytes, held_tensors
from hardprompts.vocabulary import Vocabulary

#: Bytes for each number of the words' features: kept in half precision, picked out, and used in float32.
WORD_BYTES = 8


def room_for(
    vram: int | str, vocabulary: Vocabulary, search: Search, features: int | None, held: Sequence[object]
) -> Room:
    """The room of a search in a memory of this size, in bytes or as "8GB".

    Args:
        features: numbers in the features of a text, where a search goes by features.
        held: the models, and what else stays on the device, beside the vocabulary.

    Raises:
        ValueError: this is not a size.
    """
    tables = search_tables(vocabulary, search, features)
    return Room(bytes_of(vram), vocabulary.table.device, (vocabulary, *held), tables)


def search_tables(vocabulary: Vocabulary, search: Search, features: int | None) -> int:
    """Bytes of the tables that a search will still make beside the model's own.

    Of a method that knows what each word means by itself they are the words' features; of others the embeddings of the
    tokens that may be used, in float32, as they are and at unit length.
    """
    if isinstance(search, WordSearch) and features is not None:
        return len(vocabulary.units) * features * WORD_BYTES
    wanted = 2 * len(vocabulary.allowed_ids) * vocabulary.table.shape[1] * 4
    own = held_bytes([vocabulary.table, vocabulary.allowed], vocabulary.table.device)
    made = held_bytes(held_tensors(vocabulary), vocabulary.table.device)
    return max(0, wanted - sum(size for storage, size in made.items() if storage not in own))
