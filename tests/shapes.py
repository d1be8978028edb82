"""How annotations are checked while tests run: `float` takes an int, as type checkers read it (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
