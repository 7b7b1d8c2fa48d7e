"""Every family of models that reads several tokens at once."""

import pytest
from generation.families import FAMILIES


@pytest.fixture(params=list(FAMILIES))
def family(request):
    return request.param
