"""The tokens that an inversion may use."""

import dataclasses
from collections.abc import Sequence

from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.readability import real_words
from hardprompts.vocabulary import Vocabulary


def chosen_words(
    vocabulary: Vocabulary, options: InversionOptions, captions: Sequence[str | None], *, whole_phrases: bool
) -> Vocabulary:
    """The vocabulary that was asked for, with the words of several tokens of the texts that a search begins with.

    Args:
        captions: of the tasks.
        whole_phrases: the method proposes phrases of its own, whose tokens need not be words by themselves.

    Raises:
        VocabularyError: no token is left.
    """
    real: bool | None
    if options.words is None or isinstance(options.words, bool):
        listed, real = None, options.words
    else:
        listed, real = options.words, False
    if whole_phrases and real is None:
        real = False
    words = vocabulary.narrowed(options.vocabulary, options.banned, real)
    if listed is not None:
        return real_words(words, listed)
    if whole_phrases:
        return dataclasses.replace(words, compounds=()) if words.compounds else words
    if options.vocabulary is not None:
        return words
    return words.with_words(text for text in (options.initial_prompt, *captions) if text is not None)
