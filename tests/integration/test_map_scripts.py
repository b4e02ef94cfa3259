"""The scripts of a job on a real server: leases, commits, attempts; and random histories that keep
every item in one place.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from hive.broker.link.client import BrokerClient
from hive.jobs.state import steps
from hive.jobs.work.leases import Commit
from hive.jobs.work.recovery import return_leases
from hive.settings import Settings
from tests.harness import BrokerServer, wait_until

NOTHING = (0, 0, "", 0, 0, 0, 0, 0, "")


class JobOnScripts:
    """A job driven by its scripts alone; `name` of a puller is its owner."""

    def __init__(
        self, client: BrokerClient, *, slots: int = 2, chunk: int = 0, deadline_ms: int = 0
    ) -> None:
        self.client = client
        self.id = "job"
        self.run(steps.CREATE, "{}", 600, slots, chunk, deadline_ms, 60_000)
        self.pushed = 0
        self.owned: dict[str, list[Any]] = {}

    def run(self, script: Any, *args: Any, keys: tuple[str, ...] = ()) -> Any:
        return steps.run(self.client, script, self.id, *args, keys=keys)

    def push(self, *sizes: int, last: bool = False) -> list[Any]:
        blocks = [(json.dumps(list(range(size))), size) for size in sizes]
        reply: list[Any] = self.run(
            steps.PUSH,
            int(last),
            "",
            60_000,
            self.pushed,
            *(field for block in blocks for field in block),
        )
        self.pushed += sum(sizes)
        return reply

    def step(
        self,
        owner: str,
        *,
        done: int = 0,
        want: int = 1,
        mode: str = "",
        go: bool = True,
        lease: bytes | None = None,
        keys: tuple[str, ...] = (),
    ) -> list[Any]:
        """Commit `done` items of the owner's lease, if it has one, and lease again."""
        held = self.owned.pop(owner, None)
        commit = NOTHING
        if held is not None:
            lease = held[1]
            entry = json.dumps([[owner] * done, [1] * done, None, "n", held[6]])
            commit = Commit(held[4], done, entry, [done, 0, 0, 0], done, "").arguments()
        arguments = (owner, "n", mode, int(go), want, b"", 3, len(keys), lease or b"", *commit)
        reply: list[Any] = self.run(steps.STEP, *arguments, keys=keys)
        if reply[0] == b"run":
            self.owned[owner] = reply
        return reply

    def put_off(self, owner: str, *, done: int = 0, ms: int = 60_000, runs: int = 1) -> None:
        """Commit `done` items of the owner's lease; the next one waits for its retry."""
        held = self.owned[owner]
        entry = json.dumps([[owner] * done, [1] * done, None, "n", held[6]])
        facts = (held[1], held[4], done, entry, done, 0, 0, 0, done, "", ms, f"{runs}:{runs}:")
        first = self.run(steps.PUT_OFF, *facts)
        left = held[5] - done - 1
        assert first == (held[4] + done + 1 if left else -1)
        self.owned[owner] = [*held[:4], held[4] + done + 1, left, *held[6:]]
        if not left:
            del self.owned[owner]

    def make_due(self) -> None:
        """The retries of all items that wait are due."""
        for member in self.client.redis.zrange("venom:job:job:later", 0, -1):
            self.client.redis.zadd("venom:job:job:later", {member: 1})

    def range_of(self, owner: str) -> tuple[int, int]:
        """First item and number of items of an owner's lease."""
        return self.owned[owner][4], self.owned[owner][5]

    def state(self, field: str) -> int:
        return int(self.client.redis.hget("venom:job:job:state", field) or 0)

    def outcomes(self) -> list[tuple[int, int, str]]:
        """(first, items, who committed them or their common status) of every entry."""
        entries = self.client.redis.xrange("venom:job:job:outcomes")
        return [
            (
                int(fields[b"first"]),
                int(fields[b"n"]),
                json.loads(fields[b"r"])[0] if b"r" in fields else json.loads(fields[b"d"])[0][0],
            )
            for _, fields in entries
            if b"first" in fields
        ]

    def places(self) -> Counter[int]:
        """How often each item is found: with an outcome, waiting, or under lease."""
        found: Counter[int] = Counter()
        for first, n, _ in self.outcomes():
            found.update(range(first, first + n))
        ranges = self.client.redis.lrange("venom:job:job:queue", 0, -1) + self.client.redis.lrange(
            "venom:job:job:back", 0, -1
        )
        for raw in ranges + self.held():
            _, _, first, length, *_ = raw.decode().split(":")
            found.update(range(int(first), int(first) + int(length)))
        found.update(self.waits())
        return found

    def held(self) -> list[bytes]:
        leases = self.client.redis.hgetall("venom:job:job:leases")
        return [lease for lease_id, lease in leases.items() if not lease_id.startswith(b"later:")]

    def waits(self) -> list[int]:
        """Items that wait for their retry, without those that a release before has taken."""
        rows = self.client.redis.hkeys("venom:job:job:leases")
        waits = [
            member.split(b":") for member in self.client.redis.zrange("venom:job:job:later", 0, -1)
        ]
        return [int(first) for _, _, first, _, row, _ in waits if b"later:" + row in rows]

    def check(self) -> None:
        assert self.places() == Counter(range(self.pushed)), "an item is lost or doubled"
        leased = sum(int(raw.split(b":")[3]) for raw in self.held())
        waits = len(self.waits())
        assert self.state("pushed") == self.state("done") + self.state("waiting") + leased + waits
        assert self.state("later") == self.client.redis.zcard("venom:job:job:later")
        assert all(
            self.client.redis.ttl(name) > 0 for name in self.client.redis.keys("venom:job:*")
        )


@pytest.fixture
def client(broker: BrokerServer) -> Iterator[BrokerClient]:
    client = BrokerClient(
        broker.url,
        Settings.load(redis_host="127.0.0.1", redis_port=broker.port, hive_max_retries=2),
    )
    yield client
    client.close()


def test_a_lease_is_cut_at_its_block_and_near_the_end(client: BrokerClient) -> None:
    job = JobOnScripts(client, slots=2)
    job.push(3, 100)
    assert job.step("a", want=50)[:1] == [b"run"]
    assert job.range_of("a") == (0, 3)
    job.step("b", want=50)
    assert job.range_of("b") == (3, 50)
    job.push(last=True)
    # 50 wait: a quarter of them for each of the two slots, so that both end together.
    job.step("c", want=50)
    assert job.range_of("c") == (53, 13)
    job.check()


def test_fixed_chunks_are_not_cut_near_the_end(client: BrokerClient) -> None:
    job = JobOnScripts(client, slots=4, chunk=7)
    job.push(21, last=True)
    job.step("a", want=1)
    assert job.range_of("a") == (0, 7)


def test_what_is_not_done_is_leased_again_first(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(100)
    job.step("a", want=10)
    job.step("a", done=4, want=10)
    assert job.outcomes() == [(0, 4, "a")]
    assert job.range_of("a") == (4, 6)
    job.check()


def test_a_commit_without_its_lease_changes_nothing(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(10)
    job.step("a", want=10, mode="begin")
    assert return_leases(client, []) == 0
    assert job.run(steps.RECLAIM, "a", 3) == 1
    job.step("b", want=10)
    assert job.owned["b"][6] == 2
    job.step("a", done=10, go=False)
    assert job.outcomes() == []
    job.step("b", done=1, go=False)
    assert job.outcomes() == [(0, 1, "b")]
    job.check()


def test_items_of_a_dead_run_go_one_by_one_and_the_one_that_kills_is_found(
    client: BrokerClient,
) -> None:
    job = JobOnScripts(client)
    job.push(3, last=True)
    job.step("a", want=1)
    job.step("a", done=1, want=10)
    assert job.range_of("a") == (1, 1)
    for attempt in (2, 3):
        assert job.run(steps.RECLAIM, "a", 3) == 1
        job.step("a" if attempt == 2 else "b", want=10)
    # The owner of the third run is b.
    assert job.owned["b"][6] == 3
    assert job.run(steps.RECLAIM, "b", 3) == 1
    assert job.outcomes() == [(0, 1, "a"), (1, 1, "failed")]
    assert job.state("failed") == 1
    job.check()


@pytest.mark.parametrize("first", ["the watchdog", "the redelivered puller"])
def test_a_run_whose_node_is_only_silent_uses_up_no_attempt(
    client: BrokerClient, first: str
) -> None:
    """Unless nothing was heard of ten times as many nodes as may die under an item."""
    job = JobOnScripts(client)
    job.push(1, last=True)
    for n in range(31):
        job.step(f"o{n}", want=1, mode="begin")
        assert job.owned[f"o{n}"][6] == 1
        client.redis.hset(client.key("absences"), f"o{n}", '{"a@h/1": 1}')
        if first == "the watchdog":
            assert job.run(steps.RECLAIM, f"o{n}", 3) == 1
        else:
            del job.owned[f"o{n}"]
            job.step(f"o{n}", mode="begin", go=False)
    job.step("last", want=1, mode="begin")
    assert job.owned["last"][6] == 2


def test_a_redelivered_puller_gets_its_own_leases_back_first(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(10, last=True)
    job.step("a", want=4, mode="begin")
    first = job.range_of("a")
    del job.owned["a"]
    assert job.step("a", mode="begin", go=False) == [b"yield"]
    assert client.redis.hlen("venom:pullers") == 0
    job.step("b", want=10)
    assert (job.range_of("b"), job.owned["b"][6]) == ((first[0], 1), 2)
    job.check()


def test_a_lost_reply_costs_no_attempt(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(10)
    job.step("a", want=5)
    committed = job.owned["a"][1]
    # The reply to this one, and the lease in it, are lost; the puller asks again.
    job.step("a", done=5, want=5)
    del job.owned["a"]
    job.step("a", mode="recover", want=5, lease=committed)
    assert (job.range_of("a"), job.owned["a"][6]) == ((5, 5), 1)
    assert job.outcomes() == [(0, 5, "a")]
    job.check()


def test_a_first_lease_whose_reply_was_lost_is_no_death(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(10)
    job.step("a", mode="begin")
    del job.owned["a"]
    for _ in range(4):  # more than an item may have runs
        assert job.step("a", mode="begin again")[0] == b"run"
        assert (job.range_of("a"), job.owned.pop("a")[6]) == ((0, 1), 1)
    assert job.outcomes() == []
    job.check()


def test_what_a_puller_runs_at_a_time_comes_back_although_some_of_it_has_ended(
    client: BrokerClient,
) -> None:
    job = JobOnScripts(client)
    job.push(2, last=True)
    first = job.step("p", mode="begin")[1]
    second = job.owned.pop("p") and job.step("p")
    commit = Commit(second[4], 1, json.dumps([["p"], [1], None, "n", 1]), [1, 0, 0, 0], 1, "")
    others = ("r2", 1, str(first))
    arguments = ("p", "n", "", 1, 1, b"", 3, 0, second[1], *commit.arguments(), *others)
    assert job.run(steps.STEP, *arguments) == [b"end"]
    assert return_leases(client, ["p"]) == 1


def test_a_call_that_a_hanging_broker_executes_late_takes_no_lease(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(10)

    def call(number: int, mode: str = "recover", run: str = "r1") -> list[Any]:
        arguments = ("a", "n", mode, 1, 3, b"", 3, 0, b"", *NOTHING, run, number)
        reply: list[Any] = job.run(steps.STEP, *arguments)
        return reply

    assert call(1, mode="")[0] == b"run"
    answered = call(4)
    assert (answered[0], answered[4], answered[6]) == (b"run", 0, 1)
    assert [call(2), call(3)] == [[b"late"], [b"late"]]
    assert client.redis.hkeys("venom:job:job:leases") == [b"%d" % answered[1]]
    assert call(5, mode="")[0] == b"run"
    assert call(1, mode="begin", run="r2")[0] == b"run", "another run of the same message"
    job.check()


def test_who_asks_again_whether_a_job_is_over_makes_it_no_round_more(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(5, last=True)
    job.step("a", want=1)
    job.step("a", done=1, go=False)
    asked = [job.run(steps.RETURNED, 3, 3, "first")[2] for _ in range(9)]
    assert asked == [0] * 9
    stalled = [job.run(steps.RETURNED, 3, 3, f"later {n}")[2] for n in range(3)]
    assert stalled == [1, 2, 3]
    assert job.run(steps.RETURNED, 3, 3, "last") == [b"reduce"]
    assert [outcome[2] for outcome in job.outcomes()] == ["a", "failed"]


def test_a_callers_silence_counts_only_while_somebody_looks(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(2)
    state = "venom:job:job:state"
    client.redis.hset(state, "leash", 2500)
    client.redis.delete("venom:job:job:caller")  # it lapsed
    assert job.step("a")[0] == b"run"

    def look_after_an_hour() -> int:
        counted, looked = client.redis.hget(state, "silence").split(b":")
        client.redis.hset(state, "silence", b"%s:%d" % (counted, int(looked) - 3_600_000))
        job.run(steps.TOUCH, 0, 0)
        return job.state("eof")

    assert [look_after_an_hour() for _ in range(2)] == [0, 0]
    job.run(steps.TOUCH, 1, 60_000)
    client.redis.delete("venom:job:job:caller")
    job.run(steps.TOUCH, 0, 0)
    assert [look_after_an_hour() for _ in range(3)] == [0, 0, 1], "a sign of life starts it anew"
    assert b"is gone, or cut off" in client.redis.hget(state, "error")
    assert job.push(1)[0] == b"stopped"


def test_the_end_of_an_input_is_told_twice_when_its_reply_was_lost(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(3, last=True)
    job.pushed = 0
    assert job.push(3, last=True)[0] == b"", "its pullers are still to be sent"
    assert job.state("pushed") == 3


def test_a_job_that_is_begun_late_and_again_stays_as_it_is(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(3)
    job.run(steps.CREATE, "{}", 600, 2, 0, 0, 60_000)
    assert job.state("pushed") == 3
    job.check()


def test_a_commit_behind_the_keepers_is_told_where_to_begin(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(10)
    job.step("a", want=10)
    held = job.owned["a"]
    entry = json.dumps([["keeper"] * 3, [1] * 3, None, "n", 1])
    assert job.run(steps.SPLIT, held[1], 0, 3, entry, 3, 0, 0, 0, 3, "") == 1
    assert job.run(steps.SPLIT, held[1], 0, 3, entry, 3, 0, 0, 0, 3, "") == 0
    assert job.step("a", done=4, go=False) == [b"moved", 3]
    job.check()
    job.owned["a"] = [*held[:4], 3, *held[5:]]
    assert job.step("a", done=1, want=10)[0] == b"run"
    assert job.outcomes() == [(0, 3, "keeper"), (3, 1, "a")]
    assert job.range_of("a") == (4, 6)
    job.check()


def test_a_puller_yields_to_more_urgent_queues_but_not_before_its_first_lease(
    client: BrokerClient,
) -> None:
    job = JobOnScripts(client)
    job.push(10)
    client.redis.rpush("urgent", "task")
    assert job.step("a", mode="begin", keys=("urgent", "other"))[0] == b"run"
    # Only the first key is more urgent here; the script is told their number.
    assert job.step("a", done=1, keys=("urgent",)) == [b"yield"]


def test_the_end_comes_only_after_the_input_and_pullers_linger_while_others_may_give_back(
    client: BrokerClient,
) -> None:
    job = JobOnScripts(client)
    assert job.step("a") == [b"wait", 0]
    job.push(2)
    job.step("a", want=2)
    assert job.step("b") == [b"wait", 0]
    job.push(last=True)
    assert job.step("b") == [b"linger", 0]
    client.redis.rpush("elsewhere", "task")
    job.step("a", done=1, want=5)
    assert job.step("b", go=True) == [b"end"]
    assert job.step("a", done=1) == [b"end"]
    assert job.state("done") == 2


def test_nothing_is_leased_after_a_stop_and_given_back_items_get_its_status(
    client: BrokerClient,
) -> None:
    job = JobOnScripts(client)
    job.push(5, 20)
    job.step("a", want=5)
    assert job.run(steps.STOP, "cancelled", "enough", 0) == 1
    assert job.push(5)[0] == b"stopped"
    job.pushed -= 5
    assert job.step("b") == [b"end"]
    assert job.step("a", done=2) == [b"end"]
    assert sorted(job.outcomes()) == [(0, 2, "a"), (2, 3, "cancelled"), (5, 20, "cancelled")]
    assert (job.state("cancelled"), job.state("done"), job.state("waiting")) == (23, 25, 0)


def test_a_push_whose_reply_was_lost_is_not_done_twice(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(5)
    job.pushed = 0
    assert job.push(5)[0] == b""
    assert job.state("pushed") == 5
    job.check()


def test_finished_blocks_are_forgotten(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(2, 3)
    assert client.redis.hlen("venom:job:job:blocks") == 2
    job.step("a", want=2)
    job.step("a", done=2, want=3)
    assert client.redis.hkeys("venom:job:job:blocks") == [b"2"]
    job.step("a", done=3)
    assert (
        client.redis.exists("venom:job:job:blocks", "venom:job:job:left"),
        job.state("bytes"),
    ) == (0, 0)


def test_a_deadline_is_kept_by_the_brokers_clock(client: BrokerClient) -> None:
    job = JobOnScripts(client, deadline_ms=1)
    job.push(5)
    wait_until(lambda: job.step("late", go=False) == [b"end"])
    assert job.outcomes() == [(0, 5, "timeout")]


def test_an_item_that_waits_for_its_retry_is_leased_by_itself_when_it_is_due(
    client: BrokerClient,
) -> None:
    job = JobOnScripts(client)
    job.push(10, last=True)
    job.step("a", want=3)
    job.put_off("a", done=1)
    job.check()
    assert job.range_of("a") == (2, 1)
    job.step("a", done=1, want=1)
    assert job.range_of("a") == (3, 1)
    job.make_due()
    job.step("a", done=1, want=5)
    assert (job.range_of("a"), job.owned["a"][12]) == ((1, 1), b"1:1:")
    job.check()
    job.step("a", done=1)
    assert client.redis.exists("venom:job:job:again") == 0
    job.check()


def test_a_puller_comes_back_for_each_item_that_waits_as_long_as_there_are_pullers(
    client: BrokerClient,
) -> None:
    job = JobOnScripts(client, slots=4)
    job.push(3, last=True)
    for owner, seconds in (("a", 20), ("b", 40)):
        job.step(owner, mode="begin")
        job.put_off(owner, ms=seconds * 1000)
    job.step("c", mode="begin")
    for owner, seconds in (("a", 20), ("b", 40)):
        later, ms = job.step(owner)
        assert later == b"later"
        assert seconds - 10 < ms / 1000 <= seconds
    assert job.step("c", done=1) == [b"end"], "one for each item is enough"
    assert job.step("a", mode="begin", go=False)[0] == b"later", "redelivered, it promises it again"
    assert job.run(steps.RETURNED, 3, 3, "finish")[0] == b"wait", "should none of them come"
    job.make_due()
    assert job.run(steps.RETURNED, 3, 3, "finish") == [b"more", 2, 0]
    job.check()


def test_a_job_that_is_stopped_waits_for_no_retry(client: BrokerClient) -> None:
    job = JobOnScripts(client)
    job.push(3, last=True)
    job.step("a")
    job.put_off("a", runs=3)
    job.step("b")
    assert job.run(steps.STOP, "cancelled", "enough", 0) == 1
    assert (job.state("cancelled"), job.state("later"), job.state("waiting")) == (2, 0, 0)
    job.put_off("b")
    assert (job.state("cancelled"), job.state("done"), job.state("later")) == (3, 3, 0)
    attempts = {
        int(fields[b"first"]): json.loads(fields[b"r"])[2]
        for _, fields in client.redis.xrange("venom:job:job:outcomes")
    }
    assert attempts == {0: 3, 1: 1, 2: 0}, "the runs that were begun"


def test_a_release_that_knows_no_retries_runs_early_what_waits_and_loses_nothing(
    client: BrokerClient,
) -> None:
    job = JobOnScripts(client)
    job.push(1, last=True)
    job.step("a", mode="begin")
    job.put_off("a")
    release_before_takes_what_waits(job)
    job.check()
    job.step("b")
    assert (job.range_of("b"), job.owned["b"][6]) == ((0, 1), 1)
    job.make_due()
    job.step("b", done=1)
    job.check()
    assert job.outcomes() == [(0, 1, "b")]


def release_before_takes_what_waits(job: JobOnScripts) -> None:
    """As its scripts take back leases whose owner is gone."""
    for lease_id, lease in job.client.redis.hgetall("venom:job:job:leases").items():
        if lease_id.startswith(b"later:"):
            block, base, first, length, attempt, *_ = lease.decode().split(":")
            given = ":".join((block, base, first, length, str(int(attempt) + 1)))
            job.client.redis.hdel("venom:job:job:leases", lease_id)
            job.client.redis.rpush("venom:job:job:back", given)
            job.client.redis.expire("venom:job:job:back", 600)
            job.client.redis.hincrby("venom:job:job:state", "waiting", 1)


class History:
    """What may happen to a job, in an order that a seed chooses."""

    def __init__(self, client: BrokerClient, seed: int) -> None:
        self.chance = random.Random(seed)
        self.job = JobOnScripts(client, slots=3, chunk=self.chance.choice((0, 0, 4)))
        self.owners = [f"p{number}" for number in range(5)]
        self.forgotten: list[tuple[str, list[Any]]] = []
        self.events = (
            self.feed,
            self.begin,
            self.die,
            self.come_back,
            self.reclaim,
            self.split,
            self.retry,
            self.retry,
            self.become_due,
            self.other_release,
            self.work,
            self.work,
            self.work,
        )

    def feed(self, _: str) -> None:
        if self.job.pushed < 400:
            self.job.push(*(self.chance.randint(1, 40) for _ in range(self.chance.randint(1, 3))))

    def begin(self, owner: str) -> None:
        if owner not in self.job.owned:
            self.job.step(owner, mode="begin", go=self.chance.random() < 0.7)

    def die(self, owner: str) -> None:
        """A run ends without a word, or the reply with its lease is lost."""
        if owner in self.job.owned:
            self.forgotten.append((owner, self.job.owned.pop(owner)))

    def come_back(self, _: str) -> None:
        """A run that everyone thought dead commits after all."""
        if self.forgotten:
            owner, lease = self.forgotten.pop()
            if owner not in self.job.owned:
                self.job.owned[owner] = lease
                self.job.step(owner, done=lease[5], go=False)

    def reclaim(self, owner: str) -> None:
        self.job.run(steps.RECLAIM, owner, 3)

    def split(self, owner: str) -> None:
        held = self.job.owned.get(owner)
        if held is None or held[5] < 2:
            return
        done = self.chance.randrange(held[5])
        entry = json.dumps([["keeper"] * done, [1] * done, None, "n", 1])
        if self.job.run(steps.SPLIT, held[1], held[4], done, entry, done, 0, 0, 0, done, ""):
            self.job.owned[owner] = [*held[:4], held[4] + done, 1, *held[6:]]

    def retry(self, owner: str) -> None:
        held = self.job.owned.get(owner)
        lease = held and self.job.client.redis.hget("venom:job:job:leases", held[1])
        if held and lease and int(lease.split(b":")[2]) == held[4]:
            done = self.chance.randrange(held[5])
            self.job.put_off(owner, done=done, ms=self.chance.choice((0, 60_000)))

    def become_due(self, _: str) -> None:
        self.job.make_due()

    def other_release(self, _: str) -> None:
        release_before_takes_what_waits(self.job)

    def work(self, owner: str) -> None:
        held = self.job.owned.get(owner)
        self.job.step(
            owner,
            done=self.chance.randint(0, held[5]) if held else 0,
            want=self.chance.randint(1, 50),
        )

    def end(self) -> None:
        """Every run dies, and one puller does what is left."""
        self.job.push(last=True)
        for owner in self.owners:
            self.reclaim(owner)
        self.job.make_due()
        while (
            self.job.step(
                "last", done=self.job.owned["last"][5] if "last" in self.job.owned else 0, want=50
            )[0]
            == b"run"
        ):
            pass


@pytest.mark.parametrize("seed", range(12))
def test_random_histories_keep_every_item_in_one_place(client: BrokerClient, seed: int) -> None:
    history = History(client, seed)
    for _ in range(200):
        history.chance.choice(history.events)(history.chance.choice(history.owners))
        history.job.check()
    history.end()
    history.job.check()
    assert history.job.state("done") == history.job.pushed
