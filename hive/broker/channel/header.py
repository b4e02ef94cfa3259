"""The header `hive` of a task message: made, read and checked here, and nowhere else.

It grows while the message travels, in three stages. When it is published again, by a retry for one,
only its wishes go along.

wished     by the router: `req`, `home`, `aff`
published  by the process that sends it: `id`, `of`, `created`, `due`, and `keep` before that
delivered  by the node that took it: `node`, `inc`, `at`, `deaths`, `reserved`

An executor outside Celery, for which nothing was delivered, says `stated` instead.

Fields of another type than Hive writes, and numbers that are no time or no count, are a stranger's,
and count as if they were not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

NAME = "hive"

_FIELDS: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "of": (str,),
    "home": (str,),
    "req": (dict,),
    "aff": (str,),
    "created": (int, float),
    "due": (int, float),
    "keep": (bool,),
    "node": (str,),
    "inc": (str,),
    "at": (int, float),
    "deaths": (int,),
    "reserved": (int, float),
    "stated": (bool,),
}
_WISHES = ("home", "req", "aff")
_LARGEST = 1e15
"""What lies beyond, or is no number, is neither a time nor a count."""


class Delivery(NamedTuple):
    """Who holds a delivered message: its node, that node's incarnation, and the publish id."""

    node: str
    incarnation: str
    publish_id: str


class Header:
    """A view on the header's fields, which stay the dict that kombu and Celery hand around.

    `of_message`, `read`, `of_request` and `of_task` read one. The methods under "making" make one,
    as the dict that goes into a message or a request.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __bool__(self) -> bool:
        return bool(self._fields)

    # -- reading

    @classmethod
    def of_message(cls, headers: object) -> Header | None:
        """The header among a message's headers, checked; None where the message has none."""
        found = headers.get(NAME) if isinstance(headers, Mapping) else None
        return cls(_checked(found)) if isinstance(found, Mapping) else None

    @classmethod
    def read(cls, headers: object) -> Header:
        """As `of_message`, an empty one where the message has none."""
        found = cls.of_message(headers)
        return cls({}) if found is None else found

    @classmethod
    def of_request(cls, request: Any) -> Header | None:
        """The header under which a task runs; None where it runs for no message of Hive's."""
        found = getattr(request, NAME, None)
        return cls(found) if isinstance(found, dict) and found else None

    @classmethod
    def of_task(cls, task: Any) -> Header | None:
        """As `of_request`, of the task's current request."""
        return cls.of_request(getattr(task, "request", None))

    @property
    def publish_id(self) -> str:
        """Of this message, once it is published; "" before."""
        return str(self._fields.get("id", ""))

    @property
    def parent_id(self) -> str:
        """The publish id of the message for whose run this one is sent; "" for none.

        Only such a run is meant that sends it again under the same id when it is repeated.
        """
        return str(self._fields.get("of", ""))

    @property
    def home(self) -> str | None:
        """The queue in which it waits because of its requirements; None: in its own."""
        return self._fields.get("home")

    @property
    def requirements(self) -> dict[str, Any] | None:
        return self._fields.get("req")

    @property
    def memory_mb(self) -> int:
        """The memory that must be free where it runs, in MiB."""
        demanded = (self.requirements or {}).get("memory_mb", 0)
        return demanded if isinstance(demanded, int) else 0

    @property
    def affinity(self) -> str | None:
        return self._fields.get("aff")

    @property
    def created(self) -> float | None:
        """When it was published, in unix seconds by the publisher's clock."""
        return self._fields.get("created")

    @property
    def due(self) -> float | None:
        """When it may start, in unix seconds by the publisher's clock; None: at once."""
        return self._fields.get("due") or None

    @property
    def keeps_id(self) -> bool:
        """Whether it is to be published under the id that it brings along."""
        return bool(self._fields.get("keep")) and bool(self.publish_id)

    @property
    def is_prepared(self) -> bool:
        """Whether it is published in another try, for which all is decided (`again`)."""
        return self.keeps_id and "of" in self._fields

    @property
    def is_delivered(self) -> bool:
        return "inc" in self._fields

    @property
    def delivery(self) -> Delivery | None:
        """Who holds it; None where no node took it."""
        if not self.is_delivered:
            return None
        return Delivery(self._fields["node"], self._fields["inc"], self.publish_id)

    @classmethod
    def delivery_of(cls, request: Any) -> Delivery | None:
        """Who holds the message for which a request runs; None where no node took one."""
        header = cls.of_request(request)
        return None if header is None else header.delivery

    @property
    def node(self) -> str | None:
        """The node that took it, or where an executor outside Celery says that it runs."""
        return self._fields.get("node")

    @property
    def fresh_until(self) -> float:
        """Until when its node was certain to hold it (boottime seconds)."""
        return float(self._fields.get("at", 0.0))

    @property
    def deaths(self) -> int:
        """Deliveries before this one that died, or of whose node nothing was heard since."""
        return int(self._fields.get("deaths", 0))

    @property
    def reserved(self) -> float | None:
        """When its node took it, in unix seconds by the broker's clock."""
        return self._fields.get("reserved")

    @property
    def is_stated(self) -> bool:
        """Whether its state is told by an executor outside Celery (TaskRecords.store)."""
        return bool(self._fields.get("stated"))

    def note_certain(self, at: float) -> None:
        """The broker has confirmed that its node holds it, asked at `at` (boottime seconds)."""
        self._fields["at"] = at

    # -- making

    @staticmethod
    def marked(headers: Mapping[str, Any] | None) -> dict[str, Any]:
        """Headers of a message that Hive's publishing prepares; others are left to kombu."""
        own = (headers or {}).get(NAME)
        return {**(headers or {}), NAME: own if isinstance(own, Mapping) else {}}

    @staticmethod
    def under_id(publish_id: str) -> dict[str, Any]:
        """Headers for `apply_async` by which a message is published under that id, once."""
        return {NAME: {"id": publish_id, "keep": True}}

    def again(self) -> dict[str, Any]:
        """The header of another try to publish the same message."""
        return {**self._fields, "keep": True, "of": self.parent_id}

    def wishing(
        self, requirements: Mapping[str, Any] | None, home: str | None, affinity: str | None
    ) -> dict[str, Any]:
        """This header with those wishes instead of its own; nothing of a delivery is kept."""
        kept = {} if self.is_delivered else _without(self._fields, _WISHES)
        wishes = {"req": requirements, "home": home, "aff": affinity}
        return kept | {name: wish for name, wish in wishes.items() if wish is not None}

    def published(
        self, publish_id: str, parent_id: str | None, created: float, due: float | None
    ) -> dict[str, Any]:
        """This header as it is sent: its wishes, and what publishing adds."""
        fields = {name: self._fields[name] for name in _WISHES if name in self._fields}
        fields["id"] = publish_id
        if parent_id is not None:
            fields["of"] = parent_id
        fields["created"] = created
        if due is not None:
            fields["due"] = due
        return fields

    def delivered_to(
        self, delivery: Delivery, *, fresh_until: float, deaths: int, reserved: float
    ) -> dict[str, Any]:
        """This header as its task gets it."""
        return {
            **self._fields,
            "node": delivery.node,
            "inc": delivery.incarnation,
            "id": delivery.publish_id,
            "at": fresh_until,
            "deaths": deaths,
            "reserved": reserved,
        }

    @staticmethod
    def stated_by(node: str | None, reserved: float, created: float | None) -> dict[str, Any]:
        """What stands for a delivery in the request of an executor outside Celery."""
        fields = {"node": node, "deaths": 0, "reserved": reserved, "stated": True}
        return {NAME: fields | ({} if created is None else {"created": created})}

    def for_request(self) -> dict[str, Any]:
        """The header for the request of what runs under the same delivery."""
        return {NAME: self._fields}


def _checked(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in found.items()
        if name in _FIELDS and isinstance(value, _FIELDS[name]) and _is_sane(value)
    }


def _is_sane(value: object) -> bool:
    return not isinstance(value, int | float) or -_LARGEST < value < _LARGEST


def _without(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}
