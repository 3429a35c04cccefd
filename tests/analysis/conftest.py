"""A base that can be read, a full run of it and an adapter on it, for the tests of the analysis."""

import pytest

from support.quick_training import readable_base
from support.tuned_bases import adapter, full_run
from workbench.models.base import Base


@pytest.fixture(scope="module")
def plain() -> Base:
    return readable_base()


@pytest.fixture(scope="module")
def whole(plain):
    return full_run(plain)


@pytest.fixture(scope="module")
def adapted(plain, tmp_path_factory):
    return adapter(plain, tmp_path_factory.mktemp("adapter"))
