"""Search methods by name, from every plugin."""

from collections.abc import Callable

from hardprompts import plugins
from hardprompts.errors import UnknownName
from hardprompts.search.protocol import Search

#: The method of front doors that are not told another; see `hardprompts.methods.BuildRefine`.
DEFAULT_METHOD = "build+refine"


def search_methods() -> dict[str, Callable[[], Search]]:
    """The search methods, by name."""
    return plugins.collect("search_methods")


def search_method(method: "str | Search") -> Search:
    """A method by its name, with its default hyperparameters; a method is returned as it is.

    Raises:
        UnknownName: no plugin registered that name.
    """
    if not isinstance(method, str):
        return method
    known = search_methods()
    if method not in known:
        raise UnknownName("search method", method, known)
    return known[method]()


def language_model_search(method: Search) -> Search:
    """A method with its own settings for language models, where it has any."""
    settings = getattr(method, "for_language_models", None)
    return method if settings is None else settings()
