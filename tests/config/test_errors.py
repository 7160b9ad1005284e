import pytest

from tokenunify_scale.config import ConfigError, DataError, DivergedError, HostError


@pytest.mark.parametrize(
    "error, code", [(ConfigError, 2), (HostError, 3), (DataError, 4), (DivergedError, 5)]
)
def test_every_kind_has_its_exit_code(error, code):
    assert error("why").exit_code == code
