"""A hive in containers: `StackManager`, and what `hive stack` does."""

from hive.stack.manager import StackManager

__all__ = ["StackManager"]
