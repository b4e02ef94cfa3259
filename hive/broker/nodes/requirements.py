"""What a task demands of the node that runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from hive.broker.nodes.table import Node, NodeFacts
from hive.errors import InvalidInputError

NAMES_SHOWN = 10


class Requirements(BaseModel):
    """The demands of one task; make it with `Requirements.parse`.

    gpu: True, the node has a GPU. memory_mb: so much memory, which must also be free. cpus: at
    least so many processors. labels: the node's labels have these values. capabilities: skills that
    the node offers. node: this node id and no other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: StrictBool = False
    memory_mb: int = Field(0, ge=0)
    cpus: float = Field(0.0, ge=0, allow_inf_nan=False)
    labels: dict[str, str] = Field(default_factory=dict)
    capabilities: frozenset[str] = frozenset()
    node: str | None = Field(None, min_length=1)

    @classmethod
    def parse(cls, given: object) -> Requirements | None:
        """Check what a caller passed as `requirements`.

        given: a dict, a Requirements, or None.
        Returns: None when nothing is demanded.
        Raises: InvalidInputError naming what is wrong and the known keys.
        """
        if given is None or isinstance(given, cls):
            return given or None
        if not isinstance(given, Mapping):
            raise InvalidInputError(
                f"requirements is a dict such as {{'gpu': True}}, not {given!r}. {_known_keys()}"
            )
        try:
            text = json.dumps(dict(given), sort_keys=True, default=_as_list)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"requirements cannot be {dict(given)!r}: {error}. {_known_keys()}"
            ) from None
        return _parsed(text)

    @classmethod
    def stored(cls, text: bytes) -> Requirements:
        """Read what somebody has published.

        Raises: ValueError, which says why, where it has a demand that this release does not know.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(_faults(error)) from None

    def __bool__(self) -> bool:
        return bool(self.demands)

    @cached_property
    def demands(self) -> dict[str, Any]:
        """The demands as a dict that JSON can hold, without those that demand nothing."""
        sent = self.model_dump(exclude={"capabilities"}) | {
            "capabilities": sorted(self.capabilities)
        }
        return {name: value for name, value in sent.items() if value}

    @cached_property
    def digest(self) -> str:
        """16 hex digits, the same for equal requirements in every process."""
        text = json.dumps(self.demands, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def home(self) -> str:
        """The queue in which such a task waits: the node's own, or that of the digest."""
        return f"venom:pin:{self.node}" if self.node else f"venom:req:{self.digest}"

    def missing(self, facts: NodeFacts) -> list[str]:
        """What the node lacks for ever, in words; empty when it could meet them at times."""
        lacks = []
        if self.node and facts.node_id != self.node:
            lacks.append(f"to be the node {self.node}")
        if self.gpu and not facts.gpus:
            lacks.append("a GPU")
        if facts.memory_mb < self.memory_mb:
            lacks.append(f"{self.memory_mb} MB of memory")
        if facts.cpus < self.cpus:
            lacks.append(f"{self.cpus:g} cpus")
        lacks += [
            f"the label {name}={value}"
            for name, value in self.labels.items()
            if facts.labels.get(name) != value
        ]
        lacks += [
            f"the skill {name}" for name in sorted(self.capabilities.difference(facts.capabilities))
        ]
        return lacks

    def fits(self, node: Node) -> bool:
        """Whether the node satisfies them now: nothing is missing, and the memory is free.

        It may be offline or full.
        """
        return node.load.memory_free_mb >= self.memory_mb and not self.missing(node.facts)

    def refusal(self, known: Iterable[NodeFacts]) -> str:
        """Why none of the known nodes can ever satisfy them, in words for the task's sender."""
        lacks = {facts.node_id: self.missing(facts) for facts in known}
        nowhere = set.intersection(*map(set, lacks.values())) if lacks else set()
        counted = f"the {len(lacks)} known nodes" if len(lacks) != 1 else "the 1 known node"
        if self.node and self.node not in lacks:
            return f"No known node is called {self.node}; known are {_names(lacks)}."
        if nowhere:
            wanted = " and ".join(wish for wish in next(iter(lacks.values())) if wish in nowhere)
            return (
                f"The task requires {wanted}, which none of {counted} has. "
                "Start a node that has it, or require less."
            )
        closest = min(
            lacks, key=lambda node_id: (node_id != self.node, len(lacks[node_id]), node_id)
        )
        return (
            f"The task's requirements {json.dumps(self.demands)} are not met together by any of "
            f"{counted}; "
            f"{closest} lacks {' and '.join(lacks[closest])}."
        )


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Requirements | None:
    """Parse once what is sent with every task of a kind; a text can be the cache's key."""
    try:
        requirements = Requirements.model_validate(json.loads(text))
    except ValidationError as error:
        raise InvalidInputError(
            f"requirements cannot be {text}: {_faults(error)}. {_known_keys()}"
        ) from None
    return requirements or None


def _faults(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {_reason(fault['type'], fault['msg'])}"
        for fault in error.errors()
    )


def _reason(kind: str, message: str) -> str:
    return "there is no such requirement" if kind == "extra_forbidden" else message


def _known_keys() -> str:
    return f"Known: {', '.join(Requirements.model_fields)}."


def _names(node_ids: Iterable[str]) -> str:
    names = sorted(node_ids)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _as_list(value: object) -> list[object]:
    """A set as a list, for JSON, which has no sets."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{value!r} is not a text, number, list or dict")
