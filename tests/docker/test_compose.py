"""The compose file, with the application of shop.py in three spores: what it promises holds.

All tests share one hive, and leave it as they found it.
"""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest

from tests.docker.engine import Engine
from tests.docker.project import Project
from tests.harness import wait_until

PATIENCE = 90
SPORES = 3


@pytest.fixture(scope="module")
def hive(module_projects: Any) -> Project:
    project = module_projects("2")
    project.up(spores=SPORES)
    return project


@pytest.fixture(autouse=True)
def _as_it_was(hive: Project) -> None:
    hive.wait_online(SPORES)


def send(hive: Project, seconds: float, count: int = 1) -> list[str]:
    """Tasks that wait so long; their ids."""
    sent = "print(*[wait.delay(float(sys.argv[1])).id for _ in range(int(sys.argv[2]))])"
    return hive.python(sent, str(seconds), str(count)).split()


def answers(hive: Project, *ids: str) -> list[str]:
    """What these tasks returned: in which container each ran."""
    get = "print(*[app.AsyncResult(id).get(timeout=60) for id in sys.argv[1:]])"
    return hive.python(get, *ids).split()


def begun(hive: Project, *ids: str) -> bool:
    """Whether all of these tasks have got to a spore."""
    logs = hive.logs("spore")
    return all(f"[{task}] received" in logs for task in ids)


def test_a_job_gives_every_answer_while_its_containers_come_and_go(
    hive: Project, engine: Engine
) -> None:
    mapping = ("hive", "map", "double", "-", "--app", "shop:app", "--json", "--timeout", "300")
    command = ["docker", "exec", "--interactive", hive.container("nexus"), *mapping]
    before = hive.account()["done"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=engine.environment,
    ) as job:
        job.stdin.write("".join(f"{n}\n" for n in range(200)))
        job.stdin.close()
        wait_until(lambda: "hive.pull[" in hive.logs("spore"), PATIENCE, "it runs")
        engine.kill(hive.containers("spore")[0])
        hive.compose("restart", "redis")
        hive.compose("up", "--detach", "--scale", "spore=5")
        hive.compose("up", "--detach", "--scale", f"spore={SPORES}")
        told, said = job.stdout.read(), job.stderr.read()
    assert job.returncode == 0, told + said
    outcomes = sorted(json.loads(told)["outcomes"], key=lambda outcome: outcome["index"])
    assert [outcome["value"] for outcome in outcomes] == [2 * n for n in range(200)]
    account = hive.wait_all_done()
    assert account["done"] > before
    assert (account["missing"], account["stranded"], account["dead"]) == (0, 0, 0)
    assert account["alarm"] is None


def test_a_spore_that_crashed_is_started_again(hive: Project, engine: Engine) -> None:
    victim = hive.containers("spore")[0]
    engine.kill(victim)
    wait_until(
        lambda: engine.inspect(victim)[0]["RestartCount"] >= 1, PATIENCE, "it is started again"
    )
    hive.wait_online(SPORES)


def test_nothing_listens_but_flower_on_loopback(hive: Project, engine: Engine) -> None:
    assert engine.listening() == {"127.0.0.1:5555"}


def test_the_broker_is_where_no_other_machine_is(hive: Project, engine: Engine) -> None:
    [redis] = engine.inspect(hive.container("redis"))
    [network] = redis["NetworkSettings"]["Networks"]
    assert engine.inspect(network)[0]["Internal"]


def test_no_password_is_in_a_command_line_or_a_log(hive: Project, engine: Engine) -> None:
    hive.compose("restart", "redis")
    hive.wait_online(SPORES)
    lines = engine.inside("ps", "-eo", "args=").stdout
    assert "redis-server" in lines
    for known in engine.inspect(*hive.containers()):
        config = known["Config"]
        lines += repr((known["Path"], known["Args"], config["Cmd"], config["Entrypoint"]))
        lines += repr((config["Labels"], known["State"]["Health"] if "Health" in known else ""))
    logs = hive.logs()
    for password in hive.passwords.values():
        assert password not in lines
        assert password not in logs


def test_the_broker_itself_does_not_have_the_passwords(hive: Project) -> None:
    """Its environment has none, and what it reads has their hashes; it has no rights either."""
    first = hive.engine.first_of(hive.container("redis"))
    environment = hive.engine.inside("cat", f"/proc/{first}/environ").stdout
    acl = hive.execute("redis", "cat", "/run/hive/users.acl")
    assert "user default off" in acl
    for password in hive.passwords.values():
        assert password not in environment
        assert password not in acl
    status = hive.execute("redis", "cat", "/proc/1/status")
    told = dict(line.split(":\t", 1) for line in status.splitlines())
    assert told["Uid"].split() == ["10001"] * 4
    assert told["NoNewPrivs"] == "1"
    assert int(told["CapEff"], 16) == int(told["CapPrm"], 16) == int(told["CapInh"], 16) == 0


def test_the_broker_lets_nobody_in_without_the_right_password(hive: Project) -> None:
    wrong = "x" * 40
    assert hive.redis("ping").startswith("NOAUTH")
    assert "WRONGPASS" in hive.redis("ping", user="hive", password=wrong)
    assert "WRONGPASS" in hive.redis("ping", user="default", password=wrong)
    right = hive.passwords["REDIS_PASSWORD"]
    assert hive.redis("ping", user="hive", password=right) == "PONG"
    assert hive.redis("config", "get", "*", user="hive", password=right).startswith("NOPERM")
    admin = hive.passwords["REDIS_ADMIN_PASSWORD"]
    for name, value in {
        "protected-mode": "yes",
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1 redis",
    }.items():
        told = hive.redis("config", "get", name, user="admin", password=admin)
        assert told.splitlines() == [name, value]


def test_a_hive_command_with_a_wrong_password_says_so(hive: Project, engine: Engine) -> None:
    wrong = ["--env", f"REDIS_PASSWORD={'x' * 40}"]
    done = engine.docker(
        "exec", *wrong, hive.container("nexus"), "hive", "status", check=False, timeout=60
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "REDIS_PASSWORD" in done.stderr or "password" in done.stderr


def test_containers_can_write_to_their_home_and_tmp_only(hive: Project) -> None:
    """/dev/shm is memory of the container's own, which locks between processes need."""
    for service in ("nexus", "spore", "flower"):
        assert writable(hive, service) == {"/tmp", "/var/lib/hive"}, service
    as_redis = ("setpriv", "--reuid=10001", "--clear-groups")
    assert writable(hive, "redis", *as_redis) == {"/tmp", "/data", "/run/hive"}


def writable(hive: Project, service: str, *prefix: str) -> set[str]:
    """The directories that can be written to, without what is in them."""
    look = (*prefix, "find", "/", "-type", "d", "-writable", "-prune")
    found = hive.execute(service, *look, check=False)  # it may not look everywhere
    return {path for path in found.splitlines() if not path.startswith(("/dev/", "/proc/"))}


def test_a_broker_that_is_away_makes_no_container_unhealthy(hive: Project) -> None:
    for service in ("nexus", "spore"):
        wait_until(lambda s=service: hive.health(s) == {"healthy"}, PATIENCE, "they are well")
    hive.compose("stop", "redis")
    try:
        waits = "waits for its broker"
        for service in ("nexus", "spore"):
            wait_until(
                lambda s=service: waits in hive.execute(s, "hive", "health", "--ready"),
                PATIENCE,
                f"the {service} waits",
            )
            assert hive.health(service) == {"healthy"}
    finally:
        hive.compose("start", "redis")
    assert hive.health("spore") == {"healthy"}


def test_a_busy_spore_is_well(hive: Project) -> None:
    ids = send(hive, 5, 2 * SPORES)
    wait_until(lambda: begun(hive, *ids), PATIENCE, "all are busy")
    for container in hive.containers("spore"):
        hive.engine.docker("exec", container, "hive", "health", "--ready")
    answers(hive, *ids)


def test_a_task_of_5_s_ends_while_its_container_is_stopped(hive: Project) -> None:
    [task] = send(hive, 5)
    wait_until(lambda: begun(hive, task), PATIENCE, "it runs")
    hive.compose("stop", "spore")
    stopped, ended = "Warm shutdown", f"[{task}] succeeded"
    [log] = [text for text in hive.logs("spore").split("\0") if f"[{task}]" in text]
    assert -1 < log.find(stopped) < log.find(ended), "it ended after the spore was told to stop"
    assert len(answers(hive, task)) == 1
    hive.compose("start", "spore")


def test_what_was_accepted_before_down_runs_after_the_next_up(hive: Project) -> None:
    hive.compose("stop", "spore")
    ids = send(hive, 0, 5)
    hive.compose("down")
    assert hive.containers(stopped=True) == []
    hive.up(spores=SPORES)
    assert len(answers(hive, *ids)) == 5
    account = hive.wait_all_done()
    assert (account["missing"], account["stranded"]) == (0, 0)


def test_an_orphan_of_a_task_does_not_stay_as_a_zombie(hive: Project) -> None:
    hive.python("app.send_task('shop.leave_an_orphan').get(timeout=60)")

    def zombies() -> int:
        states = hive.engine.inside("ps", "-eo", "stat=,comm=").stdout.splitlines()
        return sum(line.startswith("Z") and "sleep" in line for line in states)

    sleeping = "sleep"
    wait_until(
        lambda: sleeping not in hive.engine.inside("ps", "-eo", "comm=").stdout.split(),
        PATIENCE,
        "it has ended, and is gone",
    )
    assert zombies() == 0


def test_a_supervisor_that_is_frozen_is_not_well(hive: Project, engine: Engine) -> None:
    victim = hive.containers("spore")[0]
    first = str(engine.first_of(victim))
    pid = engine.inside("ps", "--ppid", first, "-o", "pid=").stdout.strip()
    engine.inside("kill", f"-{int(signal.SIGSTOP)}", pid)
    try:
        ask = ("docker", "exec", victim, "hive", "health")
        wait_until(
            lambda: engine.run(*ask, check=False).returncode == 1, PATIENCE, "it is not well"
        )
    finally:
        engine.inside("kill", f"-{int(signal.SIGCONT)}", pid)
    wait_until(lambda: engine.run(*ask, check=False).returncode == 0, PATIENCE, "it is well again")
