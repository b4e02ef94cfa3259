"""Runs kombu's and Celery's own integration tests on Hive: `python -m tests.conformance
[kombu-client] [kombu-spore] [celery-spore]`.

`kombu-stock` and `celery-stock` run them without Hive.
"""

from __future__ import annotations

import sys

from tests.conformance import sources
from tests.conformance.suites import SUITES


def main(names: list[str]) -> int:
    sources.main()
    failed = []
    for name in names or [name for name in SUITES if not name.endswith("stock")]:
        print(f"\n== {name}", flush=True)
        if not SUITES[name].run():
            failed.append(name)
    print(
        f"\nFailed: {', '.join(failed)}"
        if failed
        else "\nAll passed but what is on the list (tests/conformance/exceptions.py)."
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
