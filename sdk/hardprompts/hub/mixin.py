"""What every value on the Hub has in common: `push_to_hub`, written once."""

import dataclasses
from collections.abc import Sequence

from typing_extensions import Unpack

from hardprompts.hub.card import CardPart, render_card
from hardprompts.hub.client import CARD, PushOptions, PushResult, check_repo_id, push_files
from hardprompts.hub.machine import Clearance


class HubMixin:
    """A value that has a place on the Hub: it says what its files are and what the card says of it.

    Neither has anything of this machine in it, such as paths; `cleared` is the one place that sees to it.
    """

    def cleared(self) -> "tuple[HubMixin, Clearance]":
        """The same as it may be shared, and what was changed for that."""
        raise NotImplementedError

    def hub_files(self, repo_id: str) -> dict[str, bytes]:
        """The files that hold it in a repository, by name, without the card."""
        raise NotImplementedError

    def card_part(self, repo_id: str) -> CardPart:
        """What the repository's card says of it."""
        raise NotImplementedError

    def push_to_hub(self, repo_id: str, *, license: str | None = None, **options: Unpack[PushOptions]) -> PushResult:
        """Puts its files and a card into a repository of the Hub, in one commit; the result says where they are.

        Paths and names of this machine are not pushed; a warning, and the result, say what was shortened.

        Args:
            repo_id: "user/name"; made if there is none.
            license: an identifier of the Hub, "cc0-1.0" say, for the card.
            options: private, token, commit_message, create_pr and revision: see `hardprompts.hub.PushOptions`.

        Raises: as `hardprompts.hub.push_files`.
        """
        return push_values(repo_id, [self], license=license, **options)


def push_values(
    repo_id: str, values: Sequence[HubMixin], *, license: str | None = None, **options: Unpack[PushOptions]
) -> PushResult:
    """Puts several values and one card into one repository of the Hub, in one commit; see `HubMixin.push_to_hub`."""
    files = repository_files(repo_id, values, license)
    clearance = Clearance.of(value.cleared()[1] for value in values)
    notices = clearance.tell()
    return dataclasses.replace(push_files(repo_id, files, **options), notices=notices)


def repository_files(repo_id: str, values: Sequence[HubMixin], license: str | None = None) -> dict[str, bytes]:
    """The files that `push_values` writes, by name, the card first.

    Raises:
        HubError: `repo_id` is not "user/name".
    """
    check_repo_id(repo_id)
    files = {name: content for value in values for name, content in value.hub_files(repo_id).items()}
    card = render_card(repo_id, [value.card_part(repo_id) for value in values], license)
    return {CARD: card.encode(), **files}
