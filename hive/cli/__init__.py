"""The command line; `main` is the console script `hive`."""

import sys

try:
    from hive.cli.main import main
except KeyboardInterrupt:  # as `main` answers it, once it is there
    sys.exit(130)

__all__ = ["main"]
