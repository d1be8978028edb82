"""The vocabulary that audits compare with."""

import pytest

from hardprompts.testing import toy_backend
from hardprompts.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return toy_backend().vocabulary
