"""The channel's scripts, one by one, on a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from hive.broker.channel import steps
from hive.broker.channel.fence import TAKEN_AWAY
from hive.broker.channel.incarnation import Incarnation
from hive.broker.ledger.dead_letters import PURGE_DEAD, REVIVE
from hive.broker.link.client import BrokerClient
from hive.broker.link.priorities import queue_lists
from hive.foreman.watch.lease import LEASE
from hive.jobs.answer.finishing import deaths_of
from tests.chaos.conservation import look
from tests.harness import BrokerServer, wait_until
from tests.integration.channel_steps import (
    A1,
    A2,
    B1,
    PIN,
    REQUIREMENT,
    SERVED,
    Steps,
    plain_message,
)
from tests.nodes import BACKGROUND, HIGH, make_settings


@pytest.fixture(params=["", "tenant:"], ids=["", "with a key prefix"])
def channel(request: pytest.FixtureRequest, broker: BrokerServer) -> Iterator[Steps]:
    client = BrokerClient(broker.url, make_settings(), prefix=request.param)
    yield Steps(client)
    for key in client.redis.scan_iter():
        assert key.startswith(request.param.encode()), "every key has the prefix"
    client.close()


# -- publish


def test_publishing_an_id_again_changes_nothing_even_when_it_is_finished(channel: Steps) -> None:
    assert channel.publish("p", task_id="t") == [1, ""]
    assert channel.publish("p", task_id="t", priority=9) == [0]
    channel.attach(A1)
    assert channel.take(A1, 1) == ["p"]
    assert channel.publish("p", task_id="t") == [0], "reserved"
    channel.acknowledge(A1, "p")
    assert channel.publish("p", task_id="t") == [0], "finished"
    assert channel.counters() == {"accepted": 1, "duplicates": 3, "completed": 1, "done": 1}
    assert channel.hash("entries") == channel.hash("ids") == {}
    assert channel.waiting(BACKGROUND) == []


@pytest.mark.parametrize("minutes", [0, 2, 4])
def test_a_finished_id_is_known_for_four_minutes(channel: Steps, minutes: int) -> None:
    """What was done so long ago is in the set of its time, or in the one after that; releases of
    0.1 call them the same.
    """
    channel.attach(A1)
    channel.publish("p", task_id="t")
    channel.take(A1, 1)
    channel.acknowledge(A1, "p")
    (fresh,) = channel.redis.keys("*venom:finished:*")
    assert channel.redis.pttl(fresh) > 4 * 60_000
    name, _, bucket = fresh.decode().rpartition(":")
    assert int(bucket) in (now := channel.redis.time()[0] // 120, now - 1)

    def published_again() -> Any:
        began = channel.redis.time()[0] // 120
        channel.redis.delete(*channel.redis.keys("*venom:finished:*"))
        channel.redis.sadd(f"{name}:{began - minutes // 2}", "p")
        reply = channel.publish("p", task_id="t")
        # Between two sets it says nothing.
        return reply if channel.redis.time()[0] // 120 == began else None

    assert wait_until(published_again) == [0]


def test_the_free_candidate_with_the_lowest_score_by_true_counts_is_bound(channel: Steps) -> None:
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    offered = [("ghost@h", 9, -1), ("a@h", 2, 0.2), ("b@h", 2, 0.3)]
    # a 0.2, b 0.3; a 0.35, b 0.3; a 0.35, b 0.45; a is full; both are; the ghost has no incarnation
    assert [channel.publish(f"p{n}", candidates=offered)[1] for n in range(5)] == [
        "a@h",
        "b@h",
        "a@h",
        "b@h",
        "",
    ]
    assert (channel.placed("a@h"), channel.placed("b@h"), channel.waiting(BACKGROUND)) == (
        ["p0", "p2"],
        ["p1", "p3"],
        ["p4"],
    )
    assert (channel.tokens("node:a@h"), channel.tokens("node:b@h"), channel.tokens(BACKGROUND)) == (
        2,
        2,
        1,
    )
    assert channel.take(A1, 2) == ["p0", "p2"]
    assert channel.publish("p5", candidates=offered)[1] == "", "reservations count too"


def test_an_affinity_node_is_preferred_while_it_is_free(channel: Steps) -> None:
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    offered = [("a@h", 1, -1), ("b@h", 1, 0.0)]
    assert [channel.publish(f"p{n}", candidates=offered)[1] for n in range(3)] == ["a@h", "b@h", ""]


def test_what_is_due_later_is_delayed_whatever_its_candidates(channel: Steps) -> None:
    channel.attach(A1)
    assert channel.publish("p", delay=60_000, candidates=[("a@h", 2, 0)]) == [1, ""]
    assert channel.placed("a@h") == channel.waiting(BACKGROUND) == channel.take(A1, 2) == []


def test_a_requirement_is_registered_under_its_digest_by_the_first(channel: Steps) -> None:
    channel.publish("p", home=REQUIREMENT, demands='{"gpu":true}')
    channel.publish("q", home=REQUIREMENT, demands='{"gpu": true}')
    assert channel.hash("requirements") == {"d1": '{"gpu":true}'}


def test_wake_lists_stay_short(channel: Steps) -> None:
    for n in range(100):
        channel.publish(f"p{n}")
    assert channel.tokens(BACKGROUND) == 64


# -- reserve


def test_messages_are_served_in_their_order(channel: Steps) -> None:
    """Placed, pins, requirement queues, high, others, background; within each the priority; within
    that first in, first out.
    """
    channel.attach(A1)
    for queue in reversed(SERVED):
        for priority in (0, 10, None, 4, 6):
            for nth in (1, 2):
                channel.publish(
                    f"{queue} {5 if priority is None else priority} {nth}",
                    home=queue,
                    priority=priority,
                )
    channel.publish("placed", priority=0, candidates=[("a@h", 1, 0)])
    expected = ["placed"] + [
        f"{queue} {priority} {nth}"
        for queue in SERVED
        for priority in (10, 6, 5, 4, 0)
        for nth in (1, 2)
    ]
    taken: list[str] = []
    while len(taken) < len(expected):
        got = channel.take(A1, 3, *taken[-3:])
        assert 0 < len(got) <= 3
        taken += got
    assert taken == expected


def test_all_eleven_priorities_are_served_from_10_to_0(channel: Steps) -> None:
    channel.attach(A1)
    for priority in (3, 10, 0, 7, 1, 9, 5, 2, 8, 4, 6):
        channel.publish(f"{priority}", priority=priority)
    assert channel.take(A1, 11) == [f"{priority}" for priority in range(10, -1, -1)]


def test_the_slots_of_a_node_are_shared_by_its_incarnations(channel: Steps) -> None:
    for incarnation in (A1, A2):
        channel.attach(incarnation)
    for n in range(6):
        channel.publish(f"p{n}")
    assert channel.take(A1, 2) == ["p0", "p1"]
    assert channel.reserve(A2, 2) == ["ok", 0, 0]
    assert channel.take(A2, 3) == ["p2"]
    assert channel.reserve(A1, 2)[1] == -1, "fewer slots than reservations"
    assert channel.take(A1, 3, "p0", "p2") == ["p3"], "p2 is held by the other one"
    assert channel.hash("reserved", "a@h").keys() == {"p1", "p2", "p3"}


def test_a_reserve_tells_all_that_a_delivery_needs(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p", home="video", task_id="t")
    head, (publish_id, home, deaths, revoked, reserved, task_id, envelope) = (
        (reply := channel.reserve(A1, 3))[:3],
        reply[3:],
    )
    assert head == ["ok", 2, 0]
    assert (publish_id, home, deaths, revoked, task_id) == ("p", "video", "0", "0", "t")
    assert channel.hash("reserved", "a@h") == {"p": f"{A1}|{reserved}"}
    assert 0 <= channel.now() - reserved < 10_000
    assert json.loads(envelope)["headers"] == {"id": "t"}


def test_acknowledgements_travel_with_a_reserve_even_of_a_stale_connection(channel: Steps) -> None:
    channel.attach(A1)
    for publish_id in ("p", "q", "r"):
        channel.publish(publish_id)
    assert channel.take(A1, 2) == ["p", "q"]
    assert channel.take(A1, 2, "p", outcome="failed") == ["r"]
    channel.attach(A1, 2, "q", "r", first=False)
    assert channel.reserve(A1, 2, "q", epoch=1) == ["stale"]
    assert channel.hash("reserved", "a@h").keys() == {"r"}
    assert channel.counters() == {"accepted": 3, "done": 2, "failed": 1, "completed": 1}


@pytest.mark.parametrize(
    ("incarnation", "epoch", "answer"),
    [(A1, 1, ["stale"]), (A1, 3, ["stale"]), (A2, 1, ["fenced"])],
)
def test_who_is_not_attached_gets_nothing(
    channel: Steps, incarnation: str, epoch: int, answer: list[str]
) -> None:
    channel.attach(A1)
    channel.attach(A1, 2, first=False)
    channel.publish("p")
    assert channel.reserve(incarnation, 2, epoch=epoch) == answer
    assert channel.waiting(BACKGROUND) == ["p"]


def test_finding_nothing_clears_the_wake_lists_and_finding_something_does_not(
    channel: Steps,
) -> None:
    channel.attach(A1)
    channel.publish("p")
    channel.publish("q", candidates=[("a@h", 2, 0)])
    assert channel.take(A1, 2) == ["q", "p"]
    assert (channel.tokens(BACKGROUND), channel.tokens("node:a@h")) == (1, 1)
    channel.reserve(A1, 2)
    assert (channel.tokens(BACKGROUND), channel.tokens("node:a@h")) == (1, 1), "it wanted nothing"
    channel.reserve(A1, 3)
    assert (channel.tokens(BACKGROUND), channel.tokens("node:a@h")) == (0, 0)


def test_delayed_messages_go_home_when_due_and_the_next_due_time_is_told(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("late", delay=60_000)
    channel.publish("soon", delay=30, priority=9)
    channel.publish("now", priority=10)
    status, free, next_due, *rest = channel.reserve(A1, 0)
    assert (status, free, rest) == ("ok", 0, [])
    assert 1 <= next_due <= 30
    wait_until(lambda: channel.reserve(A1, 0)[2] > 1_000, what="only the late one is left")
    assert channel.take(A1, 3) == ["now", "soon"]
    assert 30_000 < channel.reserve(A1, 3)[2] <= 60_000


def test_at_most_a_hundred_due_messages_move_at_once(channel: Steps) -> None:
    channel.attach(A1)
    for n in range(150):
        channel.publish(f"p{n:03}", delay=1)
    [(_, last)] = channel.redis.zrange(channel.client.key("delayed"), -1, -1, withscores=True)
    wait_until(lambda: channel.now() > last)
    assert channel.reserve(A1, 0) == ["ok", 0, 1], "the next are due at once"
    assert len(channel.waiting(BACKGROUND)) == 100
    assert channel.reserve(A1, 0) == ["ok", 0, 0]
    assert channel.take(A1, 150) == [f"p{n:03}" for n in range(150)], (
        "in the order in which they were due"
    )


def test_what_is_revoked_is_delivered_with_a_flag(channel: Steps) -> None:
    channel.attach(A1)
    for publish_id in ("p", "q"):
        channel.publish(publish_id, task_id=f"task-{publish_id}")
    assert channel.run(steps.REVOKE, 60, "task-q", "task-x") == 2
    reply = channel.reserve(A1, 2)[3:]
    assert (reply[0::7], reply[3::7]) == (["p", "q"], ["0", "1"])
    assert channel.redis.pttl(channel.client.key("revoked")) > 0


def test_a_delayed_message_that_is_revoked_comes_at_once(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p", task_id="t", delay=60_000)
    channel.publish("q", task_id="u", delay=60_000)
    channel.run(steps.REVOKE, 60, "t", "nobody")
    reply = channel.reserve(A1, 2)[3:]
    assert (reply[0::7], reply[3::7]) == (["p"], ["1"])
    assert channel.tokens(BACKGROUND) >= 1


def test_a_plain_celery_producers_message_becomes_an_entry(channel: Steps) -> None:
    channel.attach(A1)
    message = plain_message("tag", id="t", task="x.y")
    channel.redis.lpush(f"{channel.client.prefix}{queue_lists('video')[3]}", message)
    assert channel.reserve(A1, 2)[3:7] == ["tag", "video", "0", "0"]
    entry = channel.entry("tag")
    assert (entry.home, entry.index, entry.task_id, entry.message) == (
        "video",
        3,
        "t",
        json.loads(message),
    )
    assert channel.hash("ids") == {"t": "tag"}
    channel.give_back(A1, "tag", deaths=0)
    assert channel.waiting("video") == ["tag"]


def test_a_plain_message_without_a_priority_waits_with_those_of_the_default_one(
    channel: Steps,
) -> None:
    channel.attach(A1)
    channel.publish("five")
    channel.redis.lpush(
        channel.client.prefix + BACKGROUND,
        *(plain_message(f"plain{n}", priority=0) for n in range(3)),
    )
    channel.publish("four", priority=4)
    channel.publish("six", priority=6)
    assert channel.take(A1, 2) == ["six", "five"]
    channel.publish("ten", priority=10)
    channel.publish("late")
    assert channel.take(A1, 8) == ["ten", "plain0", "plain1", "plain2", "late", "four"]
    assert channel.counters()["accepted"] == 8


@pytest.mark.parametrize("ahead", [0, 5.5, -12])
def test_a_plain_message_that_is_due_later_is_delayed(channel: Steps, ahead: float) -> None:
    channel.attach(A1)
    now = datetime.now(timezone(timedelta(hours=ahead)))
    dues = {
        "soon": now + timedelta(minutes=1),
        "tomorrow": now + timedelta(days=1),
        "in years": now.replace(year=now.year + 7, day=28),
    }
    etas = {
        "past": now.isoformat(),
        "odd": "tomorrow",
        **{tag: due.isoformat() for tag, due in dues.items()},
    }
    channel.redis.lpush(
        channel.client.prefix + BACKGROUND,
        *(plain_message(tag, eta=eta) for tag, eta in etas.items()),
    )
    reply = channel.reserve(A1, 9)
    assert (reply[3::7], 0 < reply[2] <= 60_000) == (["past", "odd"], True)
    waiting = dict(channel.redis.zrange(channel.client.key("delayed"), 0, -1, withscores=True))
    assert waiting == {
        tag.encode(): pytest.approx(due.timestamp() * 1000, abs=1) for tag, due in dues.items()
    }
    assert channel.counters()["accepted"] == 5


def test_many_plain_messages_are_looked_at_in_turns(channel: Steps) -> None:
    channel.attach(A1)
    channel.redis.lpush(
        channel.client.prefix + BACKGROUND,
        *(plain_message(f"plain{n}", priority=0) for n in range(1200)),
    )
    assert channel.reserve(A1, 2) == ["ok", 2, 1]
    assert channel.reserve(A1, 2) == ["ok", 2, 1]
    assert channel.take(A1, 2) == ["plain0", "plain1"]
    assert channel.counters()["accepted"] == 1200


@pytest.mark.parametrize(
    "garbage",
    [
        "{",
        "{}",
        '{"properties": {}}',
        '{"properties": null}',
        '{"properties": {"delivery_tag": 7}}',
    ],
)
def test_what_is_no_message_takes_no_message_with_it(channel: Steps, garbage: str) -> None:
    channel.attach(A1)
    channel.publish("p", priority=10)
    channel.redis.lpush(f"{channel.client.prefix}{BACKGROUND}", garbage)
    channel.publish("q", priority=10)
    assert channel.take(A1, 3) == ["p", "q"]
    assert channel.waiting(BACKGROUND) == []
    assert channel.counters() == {"accepted": 2, "malformed": 1}


@pytest.mark.parametrize("headers", [None, {}, {"id": None}])
def test_a_plain_message_needs_no_task_id(channel: Steps, headers: Any) -> None:
    channel.attach(A1)
    message = json.dumps({"headers": headers, "properties": {"delivery_tag": "tag"}})
    channel.redis.lpush(channel.client.prefix + BACKGROUND, message)
    assert channel.take(A1, 3) == ["tag"]
    assert channel.hash("ids") == {}


# -- acknowledge, give back, early acknowledgement


def test_only_the_holder_acknowledges(channel: Steps) -> None:
    for incarnation in (A1, A2, B1):
        channel.attach(incarnation)
    channel.publish("p", task_id="t")
    assert channel.take(A1, 2) == ["p"]
    assert (
        channel.acknowledge(A2, "p")
        == channel.acknowledge(B1, "p")
        == channel.acknowledge(A1, "unknown")
        == 0
    )
    assert channel.acknowledge(A1, "p", "p", outcome="retried") == 1
    assert channel.counters() == {"accepted": 1, "retried": 1, "done": 1}
    assert channel.hash("entries") == channel.hash("ids") == channel.hash("reserved", "a@h") == {}


def test_acknowledging_an_old_publication_keeps_the_way_to_the_newer_one(channel: Steps) -> None:
    """A retry publishes under its task id before the old delivery is acknowledged."""
    channel.attach(A1)
    channel.publish("first", task_id="t")
    assert channel.take(A1, 1) == ["first"]
    channel.publish("second", task_id="t")
    channel.acknowledge(A1, "first")
    assert channel.hash("ids") == {"t": "second"}


def test_given_back_messages_are_next_and_die_after_too_many_deaths(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p", task_id="t")
    for deaths in (1, 2, 3):
        channel.publish(f"later {deaths}")
        assert channel.take(A1, 1) == ["p"], "it is taken before what came later"
        assert channel.give_back(A1, "p", deaths=0) == ["p", 1]
        assert channel.take(A1, 1) == ["p"]
        assert channel.give_back(A1, "p", most=3) == ["p", 1]
        assert channel.entry("p").deaths == deaths
    assert channel.take(A1, 1) == ["p"]
    assert channel.give_back(A1, "p", most=3) == ["p", 2], "HIVE_MAX_RETRIES + 1 deaths"
    assert channel.hash("dead")["p"].partition("|")[2] == "its process died"
    assert channel.redis.smembers(channel.client.key("untold")) == {b"p"}
    assert (channel.entry("p").deaths, channel.hash("ids")["t"]) == (4, "p")
    assert channel.take(A1, 9) == ["later 1", "later 2", "later 3"]
    assert channel.publish("p") == [0]


def test_only_the_holder_gives_back(channel: Steps) -> None:
    for incarnation in (A1, A2):
        channel.attach(incarnation)
    channel.publish("p")
    channel.take(A1, 1)
    assert channel.give_back(A2, "p", "unknown") == []
    assert channel.give_back(A1, "p", "p") == ["p", 1]
    assert channel.waiting(BACKGROUND) == ["p"]
    assert channel.acknowledge(A1, "p") == 0


def test_a_dead_letter_that_is_revived_starts_over(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p", task_id="t")
    assert channel.run(REVIVE, "p") == 0
    channel.take(A1, 1)
    channel.give_back(A1, "p", most=0)
    assert channel.run(REVIVE, "p") == 1
    assert channel.hash("dead") == {}
    assert not channel.redis.exists(channel.client.key("untold"))
    assert channel.entry("p").deaths == 0
    assert channel.take(A1, 1) == ["p"]


def test_an_entry_remembers_its_last_ten_deaths_until_it_is_finished(channel: Steps) -> None:
    channel.publish("p", task_id="t")
    assert channel.entry("p").history == ()
    before = channel.now()
    for nth in range(6):
        channel.attach(A1)
        channel.take(A1, 1)
        channel.give_back(A1, "p", most=99)
        channel.take(A1, 1)
        channel.give_back(A1, "p", deaths=0)
        channel.run(steps.ASSIGN, "t", "a@h", "a@h")
        channel.take(A1, 1)
        assert len(channel.entry("p").history) == min(10, 2 * nth + 1)
        channel.restore(A1, most=99)
    entry = channel.entry("p")
    assert (entry.deaths, len(entry.history)) == (12, 10)
    assert [(death.node, death.reason) for death in entry.history] == 5 * [
        ("a@h", "its process died"),
        ("a@h", "node died"),
    ]
    moments = [death.at for death in entry.history]
    assert before / 1000 <= moments[0] <= moments[-1] <= channel.now() / 1000
    assert moments == sorted(moments)
    channel.attach(A1)
    message = channel.reserve(A1, 1)[9]
    assert json.loads(message)["headers"] == {"id": "t"}, (
        "who takes it gets the message as it was sent"
    )
    channel.acknowledge(A1, "p")
    assert channel.redis.keys(channel.client.key("entr*")) == []


def test_a_purged_dead_letter_is_done(channel: Steps) -> None:
    channel.attach(A1)
    for publish_id in ("p", "q"):
        channel.publish(publish_id, task_id=publish_id.upper())
    channel.take(A1, 2)
    channel.give_back(A1, "p", most=0)
    assert channel.run(PURGE_DEAD, "p", "q", "unknown") == 1
    assert channel.hash("entries").keys() == channel.hash("reserved", "a@h").keys() == {"q"}
    assert channel.hash("ids") == {"Q": "q"}
    assert channel.counters() == {"accepted": 2, "dead": 1, "purged": 1, "done": 1}
    assert (
        channel.redis.keys(channel.client.key("dead"))
        == channel.redis.keys(channel.client.key("untold"))
        == []
    )
    assert channel.publish("p") == [0], "a late copy changes nothing"


def test_what_acknowledges_early_keeps_its_slot_and_is_dropped_by_a_death(channel: Steps) -> None:
    for incarnation in (A1, A2):
        channel.attach(incarnation)
    channel.publish("early", task_id="t")
    channel.publish("late")
    channel.take(A1, 2)
    assert [channel.run(steps.MARK_EARLY, "a@h", by, "early") for by in (A2, A1, A1)] == [0, 1, 1]
    assert channel.reserve(A1, 2) == ["ok", 0, 0]
    assert channel.restore(A1) == [2, 0, "early", "late"]
    assert channel.waiting(BACKGROUND) == ["late"]
    assert channel.counters() == {"accepted": 2, "dropped": 1, "done": 1}
    assert channel.hash("ids") == {}
    assert channel.publish("early") == [0]


def test_what_acknowledges_early_can_be_acknowledged(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p")
    channel.take(A1, 1)
    channel.run(steps.MARK_EARLY, "a@h", A1, "p")
    assert channel.acknowledge(A1, "p") == 1


# -- attach, restore


def test_attaching_gives_back_what_the_process_does_not_hold_and_voids_older_connections(
    channel: Steps,
) -> None:
    for incarnation in (A1, A2):
        channel.attach(incarnation)
    for publish_id in ("held", "lost", "other"):
        channel.publish(publish_id)
    channel.take(A1, 2)
    channel.take(A2, 3)
    assert channel.attach(A1, 2, "held", "never seen", first=False) == ["ok", ["lost"], [], 0]
    assert channel.hash("reserved", "a@h").keys() == {"held", "other"}
    assert channel.entry("lost").deaths == 0
    assert channel.reserve(A1, 3, epoch=1) == ["stale"]
    assert channel.take(A1, 3, epoch=2) == ["lost"]


def test_an_attach_that_comes_after_a_later_one_takes_nothing_from_it(channel: Steps) -> None:
    """Two threads attach, and a slow link turns their order around."""
    channel.attach(A1)
    channel.attach(A1, 3, first=False)
    channel.publish("p")
    assert channel.take(A1, 1, epoch=3) == ["p"]
    assert channel.attach(A1, 2, first=False) == ["late"]
    assert channel.reserve(A1, 1, epoch=3) == ["ok", 0, 0]
    assert (channel.waiting(BACKGROUND), channel.hash("reserved", "a@h").keys()) == ([], {"p"})
    worker = Incarnation(channel.client, "b@h", 1)
    worker.attach()
    channel.attach(worker.id, 3, first=False)
    assert worker.attach() == 3, "it attaches under one that is not behind"


def test_whose_death_was_seen_gets_nothing_back(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p")
    channel.take(A1, 1)
    channel.restore(A1)
    assert channel.reserve(A1, 1) == ["fenced"]
    assert channel.acknowledge(A1, "p") == channel.run(steps.MARK_EARLY, "a@h", A1, "p") == 0
    assert channel.give_back(A1, "p") == []
    assert channel.attach(A1, 2, "p", first=False)[:3] == ["ok", [], ["p"]]
    assert channel.run(TAKEN_AWAY, "a@h", A1, "p") == 1
    assert (channel.waiting(BACKGROUND), channel.entry("p").deaths) == (["p"], 1)


def test_who_was_only_silent_gets_back_what_nobody_has_begun(channel: Steps) -> None:
    """All but what another has begun, and no death is counted for any of it."""
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    for publish_id in ("p", "q", "r"):
        channel.publish(publish_id)
    channel.take(A1, 3)
    assert channel.fall_silent(A1)[:2] == [3, 0]
    [begun] = channel.take(B1, 1)
    waits = {"p", "q", "r"} - {begun}
    assert channel.attach(A1, 2, "p", "q", "r", first=False)[:3] == ["ok", [], [begun]]
    assert channel.hash("reserved", "a@h").keys() == waits
    assert channel.hash("reserved", "b@h").keys() == {begun}
    assert channel.waiting(BACKGROUND) == []
    assert channel.hash("absences") == {}
    for publish_id in ("p", "q", "r"):
        assert (channel.entry(publish_id).deaths, channel.entry(publish_id).history) == (0, ())
    assert channel.acknowledge(A1, "p", "q", "r") == 2
    look(channel.client).check()


def test_a_run_whose_node_is_silent_may_end_before_its_node_is_back(channel: Steps) -> None:
    """Its process asks by itself: the message is its own again, in that very step."""
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    for publish_id in ("p", "q"):
        channel.publish(publish_id)
    channel.take(A1, 2)
    channel.fall_silent(A1)
    [begun] = channel.take(B1, 1)
    [waits] = {"p", "q"} - {begun}
    assert channel.run(TAKEN_AWAY, "a@h", A1, begun) == 1
    assert channel.run(TAKEN_AWAY, "a@h", A1, waits) == 0
    assert channel.hash("reserved", "a@h").keys() == {waits}
    channel.give_back(B1, begun, deaths=0)
    assert channel.run(TAKEN_AWAY, "a@h", A1, begun) == 1, "once begun elsewhere, it stays away"
    assert channel.attach(A1, 2, "p", "q", first=False)[:3] == ["ok", [], [begun]]


@pytest.mark.parametrize("by", ["itself", "a reserve"])
def test_a_run_that_ended_before_the_silence_is_acknowledged_after_it(
    channel: Steps, by: str
) -> None:
    """Its acknowledgement was under way when the node was cut off."""
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    for publish_id in ("p", "q"):
        channel.publish(publish_id)
    channel.take(A1, 2)
    channel.fall_silent(A1)
    [begun] = channel.take(B1, 1)
    if by == "itself":
        assert channel.acknowledge(A1, "p", "q") == 1
    else:
        assert channel.reserve(A1, 2, "p", "q") == ["fenced"]
    assert channel.waiting(BACKGROUND) == []
    assert channel.hash("entries").keys() == {begun}
    assert channel.attach(A1, 2, begun, first=False)[:3] == ["ok", [], [begun]]
    assert channel.acknowledge(B1, begun) == 1
    assert channel.counters()["done"] == 2
    look(channel.client).check()


def test_what_another_began_is_not_given_back_even_when_it_waits_again(channel: Steps) -> None:
    """The first run has been told that it was taken away, and left no result."""
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    channel.publish("p")
    channel.take(A1, 1)
    channel.fall_silent(A1)
    channel.take(B1, 1)
    channel.give_back(B1, "p", deaths=0)
    assert channel.attach(A1, 2, "p", first=False)[:3] == ["ok", [], ["p"]]
    assert channel.waiting(BACKGROUND) == ["p"]


def test_what_began_acknowledged_early_is_so_marked_after_its_node_came_back(
    channel: Steps,
) -> None:
    """Its process asked first, and said that it begins, before the node was back."""
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    channel.publish("p")
    channel.take(A1, 1)
    channel.fall_silent(A1)
    assert channel.run(TAKEN_AWAY, "a@h", A1, "p") == 0
    assert channel.run(steps.MARK_EARLY, "a@h", A1, "p") == 1
    assert channel.attach(A1, 2, "p", first=False)[:3] == ["ok", [], []]
    channel.restore(A1)
    assert channel.waiting(BACKGROUND) == [], "its death drops it"
    assert channel.counters()["dropped"] == 1


def test_what_the_silent_never_learned_of_is_no_death(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p")
    channel.take(A1, 1)
    channel.fall_silent(A1)
    assert channel.attach(A1, 2, first=False)[:3] == ["ok", [], []]
    assert (channel.waiting(BACKGROUND), channel.entry("p").deaths) == (["p"], 0)
    assert channel.hash("absences") == {}


def test_silence_makes_a_dead_letter_only_after_ten_times_as_many(channel: Steps) -> None:
    channel.publish("p")
    for n in range(20):
        incarnation = f"n{n}@h/1"
        channel.attach(incarnation)
        assert int(channel.reserve(incarnation, 1)[5]) == n, "earlier deliveries, of no known end"
        channel.fall_silent(incarnation, most=2)
        assert (channel.waiting(BACKGROUND), channel.entry("p").deaths) == (["p"], 0)
    channel.attach(A1)
    channel.take(A1, 1)
    channel.fall_silent(A1, most=2)
    assert channel.hash("dead").keys() == {"p"}
    channel.run(REVIVE, "p")
    assert channel.hash("absences") == {}
    look(channel.client).check()


def test_a_reduce_whose_node_only_fell_silent_has_killed_no_worker(channel: Steps) -> None:
    """`hive.finish` gives a reduce up that has killed too many; its header counts silences, too."""
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    channel.publish("p")
    channel.take(A1, 1)
    channel.fall_silent(A1)
    assert int(channel.reserve(B1, 1)[5]) == 1
    assert deaths_of(channel.client, "p") == 0
    channel.restore(B1)
    assert deaths_of(channel.client, "p") == 1
    assert deaths_of(channel.client, "unknown") == 0


@pytest.mark.parametrize("found", ["ended", "away for long"])
def test_a_silence_that_was_a_death_counts_as_one(channel: Steps, found: str) -> None:
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    for publish_id in ("p", "q"):
        channel.publish(publish_id)
    channel.take(A1, 2)
    channel.fall_silent(A1)
    channel.take(B1, 1)
    if found == "ended":
        assert channel.restore(A1) == [0, 0]
    else:
        assert channel.run(steps.LONG_ABSENT, 3_600_000, 3, "away") == 0
        wait_until(lambda: channel.run(steps.LONG_ABSENT, 0, 3, "away") == 2)
    assert [channel.entry(publish_id).deaths for publish_id in ("p", "q")] == [1, 1]
    assert channel.hash("absences") == {}
    assert channel.run(steps.LONG_ABSENT, 0, 3, "away") == 0


def test_a_silence_that_was_one_death_too_many_buries_what_waits(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p")
    channel.take(A1, 1)
    channel.fall_silent(A1, most=0)
    channel.restore(A1, most=0)
    assert (channel.waiting(BACKGROUND), channel.hash("dead").keys()) == ([], {"p"})
    look(channel.client).check()


def test_an_early_acknowledged_run_of_a_silent_node_is_not_taken_away(channel: Steps) -> None:
    """Nobody else ever gets it: what it returns is still its result."""
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    channel.publish("p")
    channel.take(A1, 1)
    channel.run(steps.MARK_EARLY, "a@h", A1, "p")
    channel.fall_silent(A1)
    assert channel.run(TAKEN_AWAY, "a@h", A1, "p") == 0
    assert channel.run(TAKEN_AWAY, "b@h", B1, "p") == 1


def test_an_incarnation_that_beats_is_not_restored(channel: Steps) -> None:
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    channel.publish("p")
    channel.take(A1, 1)
    assert channel.restore(A1, 3_000) == [-1]
    assert channel.take(A1, 2) == []
    channel.redis.zadd(channel.client.key("beats"), {B1: channel.now() + 3_000})
    channel.redis.zadd(channel.client.key("beats"), {A1: 1})
    channel.redis.set(channel.client.key("heard_since"), 1)
    assert channel.restore(A1, 3_000) != [-1]
    assert channel.waiting(BACKGROUND) == ["p"]


def test_while_no_node_is_heard_nobody_is_missed(channel: Steps) -> None:
    """Nor until others have been heard for that long after the first of them is heard again."""
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    beats = channel.client.key("beats")
    channel.redis.zadd(beats, {A1: 1, B1: 2_000})
    assert channel.restore(A1, 3_000) == [-1], "nobody was heard when it had been silent for long"
    channel.attach(B1, 2, first=False)
    assert channel.restore(A1, 3_000) == [-1], "one is heard again, the other may be any moment"
    heard = int(channel.redis.get(channel.client.key("heard_since")))
    assert channel.now() - heard < 3_000
    channel.redis.zadd(beats, {B1: heard + 3_001})
    assert channel.restore(A1, 3_000) != [-1]


def test_the_longer_patience_holds(channel: Steps) -> None:
    channel.attach(A1, process=json.dumps({"machine": "m", "dead_after": 60_000}))
    beats = channel.client.key("beats")
    channel.redis.set(channel.client.key("heard_since"), 1)
    channel.redis.zadd(beats, {A1: 1_000, "other@h/0": 50_000})
    assert channel.restore(A1, 3_000) == [-1]
    assert channel.restore(A1, 70_000) == [-1]
    channel.redis.zadd(beats, {"other@h/0": 61_001})
    assert channel.restore(A1, 3_000) != [-1]


def test_two_machines_cannot_have_one_node_while_both_live(channel: Steps) -> None:
    def process(machine: str, host: str) -> str:
        return json.dumps({"machine": machine, "host": host, "dead_after": 3_000})

    assert channel.attach(A1, process=process("m1", "here"))[0] == "ok"
    assert channel.attach(A2, process=process("m2", "there")) == ["taken", "here"]
    assert channel.hash("epochs").keys() == {A1}
    assert channel.attach(A2, process=process("m1", "here"))[0] == "ok", "one machine may"
    assert channel.attach(B1, process=process("m2", "there"))[0] == "ok", "another node may"
    channel.redis.zadd(channel.client.key("beats"), {A1: 1, A2: 1})
    assert channel.attach("a@h/3", process=process("m2", "there"))[0] == "ok", "it was silent"


def test_a_death_brings_all_home(channel: Steps) -> None:
    """Reservations with their count raised, placed messages with theirs kept, pins ended; and
    nobody is bound there any more.
    """
    channel.attach(A1)
    channel.attach(B1)
    channel.publish("held", home=HIGH, priority=7)
    channel.publish("doomed")
    channel.take(A1, 2)
    for _ in range(3):
        channel.give_back(A1, "doomed")
        channel.take(A1, 2)
    for publish_id in ("placed 1", "placed 2"):
        channel.publish(publish_id, home="video", candidates=[("a@h", 9, 0)])
    channel.publish("pinned", task_id="t")
    assert channel.run(steps.ASSIGN, "t", "a@h", "a@h", "b@h") == ["moved", "a@h"]
    assert channel.entry("pinned").pin == "a@h"
    reservations, placed, *ids = channel.restore(A1)
    assert (reservations, placed, sorted(ids)) == (2, 3, ["doomed", "held"])
    assert (channel.waiting(HIGH), channel.waiting("video"), channel.waiting(BACKGROUND)) == (
        ["held"],
        ["placed 1", "placed 2"],
        ["pinned"],
    )
    assert [channel.entry(name).deaths for name in ("held", "placed 1", "pinned", "doomed")] == [
        1,
        0,
        0,
        4,
    ]
    assert channel.hash("dead").keys() == {"doomed"}
    assert channel.entry("pinned").pin == ""
    assert [channel.tokens(queue) for queue in (HIGH, "video")] == [2, 2]
    assert channel.publish("next", candidates=[("a@h", 9, 0)]) == [1, ""]
    assert channel.run(steps.ASSIGN, "t", "a@h", "a@h", "b@h") == ["offline"]


def test_a_pin_outlives_a_process_and_an_incarnation_but_not_its_node(channel: Steps) -> None:
    for incarnation in (A1, A2, B1):
        channel.attach(incarnation)
    channel.publish("p", task_id="t")
    channel.run(steps.ASSIGN, "t", "a@h", "a@h", "b@h")
    assert channel.take(A1, 1) == ["p"]
    assert channel.give_back(A1, "p") == ["p", 1]
    assert (channel.placed("a@h"), channel.take(B1, 1), channel.entry("p").deaths) == (["p"], [], 1)
    assert channel.take(A1, 1) == ["p"]
    channel.restore(A1)
    assert (channel.placed("a@h"), channel.entry("p").pin) == (["p"], "a@h")
    assert channel.take(A2, 1) == ["p"]
    channel.restore(A2)
    assert (channel.placed("a@h"), channel.entry("p").pin) == ([], "")
    assert channel.take(B1, 1) == ["p"]


def test_a_dead_letter_is_pinned_no_more(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p", task_id="t")
    channel.run(steps.ASSIGN, "t", "a@h", "a@h")
    channel.take(A1, 1)
    assert channel.give_back(A1, "p", most=0) == ["p", 2]
    channel.run(REVIVE, "p")
    assert (channel.waiting(BACKGROUND), channel.placed("a@h")) == (["p"], [])


def test_another_incarnation_of_the_node_keeps_what_is_its_own(channel: Steps) -> None:
    for incarnation in (A1, A2):
        channel.attach(incarnation)
    channel.publish("held")
    channel.take(A2, 1)
    channel.publish("placed", candidates=[("a@h", 2, 0)])
    assert channel.restore(A1, "left") == [0, 0]
    assert channel.take(A2, 2) == ["placed"]
    assert channel.restore(A2, "left")[:2] == [2, 0]
    assert [channel.entry(name).deaths for name in ("held", "placed")] == [0, 0], (
        "leaving is no death"
    )
    assert channel.redis.keys(channel.client.key("placed", "*")) == []


# -- unplace, release, assign, purge, lease


def test_a_draining_node_gives_back_what_is_bound_to_it_even_by_an_assignment(
    channel: Steps,
) -> None:
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    for name in ("p1", "p2", "p3"):
        channel.publish(
            name, task_id=name.upper(), candidates=[("a@h", 3, 0)] if name != "p3" else ()
        )
    channel.run(steps.ASSIGN, "P3", "a@h", "a@h")
    channel.publish("of b", candidates=[("b@h", 1, 0)])
    channel.publish("pinned", home=PIN)
    assert channel.run(steps.RELEASE, "a@h") == 3
    assert (channel.placed("a@h"), channel.placed("b@h"), channel.waiting(PIN)) == (
        [],
        ["of b"],
        ["pinned"],
    )
    assert channel.entry("p3").pin == ""
    assert channel.take(B1, 4, served=(BACKGROUND,)) == ["of b", "p1", "p2", "p3"]
    assert channel.run(steps.RELEASE, "a@h") == 0


def test_what_waits_too_long_at_a_live_node_goes_home_unless_it_is_pinned(channel: Steps) -> None:
    channel.attach(A1)
    for publish_id in ("p1", "p2", "pinned"):
        channel.publish(publish_id, task_id=publish_id, candidates=[("a@h", 9, 0)])
    channel.publish("behind")
    channel.run(steps.ASSIGN, "pinned", "a@h", "a@h")
    assert channel.run(steps.UNPLACE, 60_000, 9, "a@h", "b@h") == []
    assert channel.run(steps.UNPLACE, 0, 9, "a@h", "b@h") == ["a@h", 2]
    assert (channel.placed("a@h"), channel.waiting(BACKGROUND)) == (
        ["pinned"],
        ["p1", "p2", "behind"],
    )
    assert channel.tokens(BACKGROUND) == 3


def test_assigning_pins_a_waiting_task(channel: Steps) -> None:
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    nodes = ("a@h", "b@h")

    def assign(task_id: str, node: str) -> Any:
        return channel.run(steps.ASSIGN, task_id, node, *nodes)

    channel.publish("p", task_id="t", priority=9)
    channel.publish("later", task_id="later", delay=60_000)
    channel.publish("q", task_id="q")
    assert assign("t", "a@h") == ["moved", "a@h"]
    assert assign("t", "b@h") == ["moved", "b@h"], "from the one node's list to the other's"
    assert (channel.placed("a@h"), channel.placed("b@h"), channel.entry("p").pin) == (
        [],
        ["p"],
        "b@h",
    )
    assert (channel.tokens("node:a@h"), channel.tokens("node:b@h")) == (1, 1)
    assert assign("t", "gone@h") == ["offline"]
    assert (assign("nobody", "a@h"), assign("later", "a@h")) == (["unknown"], ["delayed"])
    assert channel.take(A1, 2) == ["q"]
    assert assign("q", "b@h") == ["running", "a@h"]
    assert channel.run(steps.ASSIGN, "q", "b@h", "b@h") == ["unknown"], (
        "held by a node that the caller does not know"
    )
    channel.give_back(A1, "q", most=0)
    assert assign("q", "b@h") == ["dead"]
    assert channel.take(B1, 2) == ["p"]


def test_purging_ends_what_waits_in_one_list(channel: Steps) -> None:
    channel.attach(A1)
    for n in range(5):
        channel.publish(f"p{n}", task_id=f"t{n}")
    channel.publish("urgent", priority=6)
    channel.redis.lpush(
        f"{channel.client.prefix}{queue_lists(BACKGROUND)[5]}", plain_message("tag")
    )
    assert [channel.run(steps.PURGE, 3, keys=[queue_lists(BACKGROUND)[5]]) for _ in range(3)] == [
        3,
        3,
        0,
    ]
    assert channel.hash("ids") == {}
    assert channel.hash("entries").keys() == {"urgent"}
    assert channel.counters() == {"accepted": 6, "purged": 5, "done": 5}
    assert channel.publish("p1") == [0]


def test_a_lease_has_one_holder(channel: Steps) -> None:
    def lease(holder: str, ms: int) -> bool:
        return bool(channel.run(LEASE, "foreman", holder, ms, 0))

    assert lease("x", 60_000)
    assert not lease("y", 60_000)
    assert lease("x", 1), "kept"
    assert wait_until(lambda: lease("y", 60_000)), "taken over after it expired"
    assert not lease("x", 0)
    assert not lease("x", 60_000), "giving up what one does not hold changes nothing"
    assert not lease("y", 0)
    assert lease("x", 60_000)


@pytest.mark.parametrize("field", [None, "until"])
def test_what_is_no_lease_keeps_nobody_from_taking_it(channel: Steps, field: str | None) -> None:
    key = channel.client.key("lease", "foreman")
    if field is None:
        channel.redis.set(key, "x")
    else:
        channel.redis.hset(key, field, "soon")
    assert channel.run(LEASE, "foreman", "y", 60_000, 0)
    assert channel.redis.hget(key, "holder") == b"y"


def test_what_a_run_has_sent_is_known_until_its_message_is_finished(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("parent", task_id="t")
    channel.take(A1, 1)
    assert channel.publish("child", task_id="c", parent="parent") == [1, ""]
    channel.take(A1, 2)
    channel.acknowledge(A1, "child")
    channel.redis.delete(*channel.redis.keys("*venom:finished:*"))  # minutes later
    assert channel.publish("child", task_id="c", parent="parent") == [0]
    channel.acknowledge(A1, "parent")
    assert not channel.redis.keys("*venom:sent:*")
    assert channel.publish("another", task_id="d", parent="parent") == [1, ""]
    assert not channel.redis.keys("*venom:sent:*"), (
        "a run whose message is finished leaves nothing behind"
    )


@pytest.mark.parametrize("deaths", [0, 1, 9])
def test_a_message_whose_retry_was_accepted_does_not_run_again(channel: Steps, deaths: int) -> None:
    channel.attach(A1)
    channel.publish("first", task_id="t")
    channel.take(A1, 1)
    channel.publish("retry", task_id="t", parent="first")
    assert channel.give_back(A1, "first", deaths=deaths) == ["first", 3]
    assert channel.waiting(BACKGROUND) == ["retry"]
    assert channel.counters() == {"accepted": 2, "retried": 1, "done": 1}
    assert channel.hash("ids") == {"t": "retry"}


# -- postpone and call up


def test_what_is_postponed_waits_without_a_slot_and_without_a_death(channel: Steps) -> None:
    channel.attach(A1)
    for name in ("p", "q", "r"):
        channel.publish(name)
    assert channel.take(A1, 2) == ["p", "q"]
    assert channel.postpone(A1, "p", "q", task="calls") == 2
    assert channel.hash("reserved", "a@h") == {}
    assert channel.entry("p").deaths == 0
    delayed = channel.redis.zrange(channel.client.key("delayed"), 0, -1, withscores=True)
    assert sorted(name.decode() for name, _ in delayed) == ["p", "q"]
    assert all(50_000 < due - channel.now() < 62_000 for _, due in delayed), "back in a minute"
    assert channel.take(A1, 2) == ["r"]
    assert channel.postpone(A1, "r", ms=1) == 1
    wait_until(lambda: channel.take(A1, 2) == ["r"], what="it is due, and has no rate limit")
    assert channel.call_up("a@h", "calls", most=9) == (2, 0)


def test_only_the_reservation_that_is_meant_is_postponed(channel: Steps) -> None:
    channel.attach(A1)
    channel.attach(B1)
    channel.publish("p")
    assert channel.take(A1, 1) == ["p"]
    assert channel.postpone(B1, "p", task="calls") == 0, "it is another's"
    assert channel.postpone(A1, "p", task="calls", late=True) == 0, "it was reserved again since"
    assert channel.postpone(A1, "p", task="calls") == 1
    assert channel.postpone(A1, "p", task="calls") == 0, "the call was repeated"
    assert channel.redis.zcard(channel.client.key("delayed")) == 1


def test_the_oldest_is_called_first_to_a_free_slot_or_to_the_front_of_its_queue(
    channel: Steps,
) -> None:
    channel.attach(A1)
    for name in ("p1", "p2", "p3", "p4"):
        channel.publish(name)
        moment = channel.now()
        wait_until(lambda moment=moment: channel.now() > moment)
    channel.take(A1, 4)
    assert channel.postpone(A1, "p3", "p1", "p4", "p2", task="calls") == 4
    channel.publish("other")
    assert channel.call_up("a@h", "calls", slots=1) == (1, 3)
    assert channel.placed("a@h") == ["p1"]
    assert channel.tokens("node:a@h") == 1
    assert channel.call_up("a@h", "calls", slots=1, most=2) == (2, 1)
    assert channel.placed("a@h") == ["p1"], "its one slot is spoken for"
    assert channel.take(A1, 4) == ["p1", "p2", "p3", "other"]


def test_nothing_is_called_to_a_node_that_does_not_serve_its_queue(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p", home=REQUIREMENT)
    channel.take(A1, 1)
    channel.postpone(A1, "p", task="calls")
    assert channel.call_up("b@h", "calls", served=(HIGH, BACKGROUND)) == (0, 0)
    assert channel.call_up("a@h", "another task") == (0, 0)
    assert channel.call_up("a@h", "calls") == (1, 0)


def test_what_is_pinned_waits_for_its_own_node(channel: Steps) -> None:
    channel.attach(A1)
    channel.attach(B1)
    channel.publish("p", task_id="t")
    assert channel.run(steps.ASSIGN, "t", "a@h", "a@h", "b@h") == ["moved", "a@h"]
    channel.take(A1, 1)
    channel.postpone(A1, "p", task="calls")
    assert channel.call_up("b@h", "calls") == (0, 0)
    channel.redis.zadd(channel.client.key("delayed"), {"p": 1})
    assert channel.take(B1, 1) == [], "it comes back by itself, to its node"
    assert channel.take(A1, 1) == ["p"]


def test_what_expires_is_back_by_then(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p")
    channel.take(A1, 1)
    channel.postpone(A1, "p", task="calls", ms=5_000)
    due = channel.redis.zscore(channel.client.key("delayed"), "p")
    assert 0 < due - channel.now() <= 5_000


def test_a_foreign_key_in_the_place_of_the_index_only_costs_time(channel: Steps) -> None:
    channel.attach(A1)
    channel.publish("p")
    channel.take(A1, 1)
    for index in (("limited", BACKGROUND, "calls"), ("waits", BACKGROUND)):
        channel.redis.set(channel.client.key(*index), "not Hive's")
    assert channel.postpone(A1, "p", task="calls") == 1
    assert channel.redis.zcard(channel.client.key("delayed")) == 1
    assert channel.call_up("a@h", "calls") == (0, 0)
    assert channel.redis.llen(channel.client.key("aside")) == 2
