"""Some of kombu's and Celery's own tests, on Hive; `make conformance` runs all of them."""

from __future__ import annotations

import pytest

from tests.conformance.sources import folder_of
from tests.conformance.suites import SUITES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["kombu-client", "kombu-spore", "celery-spore"])
def test_upstreams_own_tests_pass(name: str) -> None:
    suite = SUITES[name]
    if folder_of(suite.package) is None:
        pytest.skip(
            f"{suite.package}'s tests are not there: `make setup` fetches them where there is a "
            "network"
        )
    assert suite.run(short=True)
