"""Ids for the tasks of a canvas that are the same whenever a run is repeated.

Celery names what it sends around a task (its callbacks, what replaces it, what it adds to its
chord) by random ids, at the moment of sending. A run that is repeated after a kill would send all
of it once more, as other tasks. Names that follow from the publication that runs let the broker
recognize the copies.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from kombu.utils.json import loads

from hive.broker.link.coding import dumps

LINKS = {"callbacks": "link", "errbacks": "error"}
_RANDOM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def is_random(task_id: str) -> bool:
    """Whether an id has the form of those that Celery makes."""
    return _RANDOM.fullmatch(task_id) is not None


def ids_in(request: Any) -> set[str]:
    """The ids of the tasks of every canvas that came with the message of a request."""
    ids: set[str] = set()
    parts = [request.chain, request.callbacks, request.errbacks, request.chord]
    parts += [request.args, request.kwargs]
    while parts:
        part = parts.pop()
        if isinstance(part, list | tuple):
            parts += part
        elif isinstance(part, dict):
            if isinstance(task_id := part.get("task_id"), str):
                ids.add(task_id)
            parts += part.values()
    return ids


def named(signature: Any, *seed: object, result: bool = True) -> dict[str, Any]:
    """A copy of a signature, as a dict, in which every task has an id; those it has already stay.

    seed: what the ids follow from.
    result: false leaves that task without an id whose result is the canvas' own.
    """
    copy: dict[str, Any] = loads(dumps(signature))
    ids = (
        str(uuid.uuid5(uuid.NAMESPACE_OID, "|".join(map(str, (*seed, nth)))))
        for nth in itertools.count()
    )
    _name(copy, ids, result)
    return copy


def regroup(embed: dict[str, Any], groups: Mapping[str, str]) -> dict[str, Any]:
    """A copy of an embedded canvas with other names for its groups."""

    def renamed(part: Any) -> Any:
        if isinstance(part, list | tuple):
            return [renamed(element) for element in part]
        if not isinstance(part, dict):
            return part
        return {
            key: groups.get(value, value) if key == "group_id" else renamed(value)
            for key, value in part.items()
        }

    copy: dict[str, Any] = {name: renamed(part) for name, part in embed.items()}
    return copy


def embedded(embed: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the options of every task in the canvas that a task message carries along."""
    waiting: list[Any] = list(embed.values())
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting += part
        elif isinstance(part, Mapping) and "options" in part:
            options = part["options"] or {}
            yield part.get("task") or "", options
            waiting += [options.get(name) for name in ("link", "link_error", "chord")]
            if part.get("subtask_type"):
                inner = part.get("kwargs") or {}
                waiting += [inner.get(name) for name in ("tasks", "header", "body")]


def name_links(embed: dict[str, Any], publish_id: str) -> None:
    """Name the callbacks in a task message's embedded canvas, and the errbacks of its chord."""
    for links, kind in LINKS.items():
        if embed.get(links):
            embed[links] = [
                named(link, publish_id, kind, nth) for nth, link in enumerate(embed[links])
            ]
    chord: dict[str, Any] = embed.get("chord") or {}
    options = chord.get("options") or {}
    if options.get("link_error"):
        # From what all members' messages have in common: whichever fails, it calls the same tasks.
        own = options.get("task_id") or publish_id
        errors = [
            named(link, own, "error", nth)
            for nth, link in enumerate(_listed(options["link_error"]))
        ]
        embed["chord"] = {**chord, "options": {**options, "link_error": errors}}


def _name(signature: dict[str, Any], ids: Iterator[str], result: bool) -> None:
    kind, options, parts = (
        signature.get("subtask_type"),
        signature.setdefault("options", {}),
        signature.get("kwargs") or {},
    )
    if kind == "chain":
        for nth, task in enumerate(parts["tasks"], 1):
            _name(task, ids, result or nth < len(parts["tasks"]))
    elif kind == "group":
        _name_all(parts["tasks"], ids)
    elif kind == "chord":
        header = parts["header"]
        _name_all(header if isinstance(header, list) else [header], ids)
        if parts.get("body"):
            _name(parts["body"], ids, result)
    elif result:
        name = next(ids)
        options.setdefault("task_id", name)
    _name_all([*_listed(options.get("link")), *_listed(options.get("link_error"))], ids)


def _name_all(signatures: list[Any], ids: Iterator[str]) -> None:
    for signature in signatures:
        _name(signature, ids, True)


def _listed(links: Any) -> list[Any]:
    if not links:
        return []
    return list(links) if isinstance(links, list | tuple) else [links]
