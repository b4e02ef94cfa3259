"""What a stack can fail with; all of them are children of HiveError."""

from __future__ import annotations

from hive.errors import HiveError


class StackError(HiveError):
    """The stack could not be started, changed or ended."""


class EngineUnreachableError(HiveError):
    """The container engine does not answer."""

    exit_code = 3


class UnknownStackError(HiveError):
    """There is no stack of that name."""


class StackPartlyError(StackError):
    """The stack runs, but not all of its services are healthy."""

    exit_code = 4
