"""Type checker that the import hook of jaxtyping applies to the package during the tests."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is accepted as a float, as in PEP 484
