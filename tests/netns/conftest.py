"""These tests run by themselves (`make netns`), since they need rights that few machines give."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("HIVE_TEST_NETNS") else ["test_*.py"]
