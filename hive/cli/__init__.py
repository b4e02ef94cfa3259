"""The command line; `main` is the console script `hive`."""

from hive.cli.main import main

__all__ = ["main"]
