"""`hive.testing`: a broker and spores for a test, of which nothing is left."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from celery import Celery, _state, current_app

import hive
from hive.broker.link.client import client_of
from hive.errors import HiveError, InvalidInputError
from hive.testing import Cluster, cluster
from tests.harness import free_port, wait_until

SHOP = """
import os
import sys
import time
from pathlib import Path

from celery import Celery

import hive

app = Celery("shop")
{configuration}

@app.task(shared=False)
def price(cents):
    return cents * 2


@app.task(bind=True, shared=False)
def hold(self, begun, go):
    with Path(begun).open("a") as log:
        log.write(self.request.hostname + "\\n")
    end = time.monotonic() + 60
    while not Path(go).exists() and time.monotonic() < end:
        time.sleep(0.02)
    return self.request.hostname
"""

INSTALLED = "hive.install(app)"


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    default, current = _state.default_app, _state._tls.current_app
    yield
    _state.set_default_app(default)
    _state._set_current_app(current)


def shop(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, configuration: str = INSTALLED
) -> Any:
    """A user's module with an application in it."""
    (directory / f"{name}.py").write_text(SHOP.format(configuration=configuration))
    monkeypatch.syspath_prepend(directory)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def state_of(app: Celery) -> Any:
    """What an application is configured with, and what it has made of it."""
    names = ("hive", "hive_installation", "amqp_cls", "control_cls", "amqp", "_pool", "_local")
    return (
        dict(app.conf.changes),
        {name: vars(app).get(name) for name in names},
        {kind: set(steps) for kind, steps in app.steps.items() if steps},
        app.conf.broker_url,
        app.conf.result_backend,
        _state.default_app,
        _state._tls.current_app,
        dict(os.environ),
    )


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def assert_nothing_is_left(directory: Path, port: int, pids: list[int]) -> None:
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), 20, "the processes have ended")
    assert not is_open(port)
    assert not directory.exists()


def processes() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)]


def test_tasks_and_maps_run_on_spores_that_are_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = shop(tmp_path, monkeypatch, "aid_shop")
    with cluster(module.app, spores=2, concurrency=1) as started:
        assert {node for node, about in started.nodes().items() if about.online} == {
            "spore-1@test",
            "spore-2@test",
        }
        assert {about.facts.slots for about in started.nodes().values()} == {1}
        assert module.price.delay(2).get(timeout=30) == 4
        assert hive.map(module.price, range(10), "sum", timeout=30).result().value == 90
        module.price.apply_async((1,), countdown=0.5)
        started.wait_idle()
        with client_of(started.app).redis as client:
            assert client.hlen("venom:entries") == 0


def test_the_task_of_a_killed_spore_runs_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = shop(tmp_path, monkeypatch, "aid_killed")
    begun, go = tmp_path / "begun", tmp_path / "go"
    with cluster("aid_killed:app", spores=2, concurrency=1) as started:
        result = module.hold.delay(str(begun), str(go))
        first = wait_until(lambda: begun.exists() and begun.read_text().strip(), 30, "it began")
        started.kill(first.partition("@")[0])
        wait_until(lambda: len(begun.read_text().split()) == 2, 30, "it began again")
        go.touch()
        assert {first, result.get(timeout=30)} == {"spore-1@test", "spore-2@test"}


def test_spores_are_stopped_started_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = shop(tmp_path, monkeypatch, "aid_steps")
    begun, go = tmp_path / "begun", tmp_path / "go"
    with cluster(module.app, watch=False) as started:
        started.start("extra", concurrency=3, options=("-l", "info"))
        assert started.nodes()["extra@test"].facts.slots == 3
        held = module.hold.apply_async((str(begun), str(go)), requirements={"node": "extra@test"})
        wait_until(begun.exists, 30, "it began")
        go.touch()
        started.stop("extra")
        assert held.get(timeout=30) == "extra@test"
        assert not started.nodes()["extra@test"].online
        assert "ready." in started.log("extra")
        started.start("extra")
        assert set(started.wait_online()) == {"spore-1@test", "extra@test"}
        with pytest.raises(HiveError, match="'extra' runs already"):
            started.start("extra")
        with pytest.raises(HiveError, match=r"'spore-9'; there are: spore-1, extra\."):
            started.kill("spore-9")


def test_settings_win_over_the_environment_here_and_in_the_spores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVE_NODE_LABELS", "zone=b")
    monkeypatch.setenv("HIVE_MAX_RETRIES", "7")
    module = shop(tmp_path, monkeypatch, "aid_settings")
    with cluster(module.app, hive_node_labels={"zone": "a"}, hive_task_timeout=9.0) as started:
        assert started.nodes()["spore-1@test"].facts.labels == {"zone": "a"}
        assert (started.settings.hive_task_timeout, started.settings.hive_max_retries) == (9.0, 7)
        assert started.environment["HIVE_TASK_TIMEOUT"] == "9.0"
        command = [sys.executable, "-m", "hive", "status", "--json"]
        said = subprocess.run(
            command, env={**os.environ, **started.environment}, capture_output=True, text=True
        )
        assert '"spore-1@test"' in said.stdout, said.stderr


ELSEWHERE = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    "configuration",
    [
        INSTALLED,
        "",
        f'app.conf.update(broker_url="{ELSEWHERE}", result_backend="{ELSEWHERE}")',
        (
            f'app.conf.update(broker_url="{ELSEWHERE}", task_always_eager=True,'
            ' task_default_queue="own", task_routes={"x.*": "y"})\nhive.install(app)'
        ),
        f'app = Celery("shop", broker="{ELSEWHERE}", backend="{ELSEWHERE}", set_as_current=False)',
    ],
    ids=["installed", "plain", "plain-addresses", "installed-eager", "plain-constructed"],
)
def test_an_application_is_as_it_was_whatever_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any, configuration: str
) -> None:
    name = f"aid_{request.node.callspec.id.replace('-', '_')}"
    monkeypatch.setenv("CELERY_BROKER_READ_URL", ELSEWHERE)
    module = shop(tmp_path, monkeypatch, name, configuration)
    module.app.amqp, module.app.control  # noqa: B018 - made for the broker it had
    before = state_of(module.app)
    with cluster(module.app) as started:
        assert current_app == hive.MessageBroker().app == module.app == started.app
        assert module.price.delay(2).get(timeout=30) == 4
        kept = module.price.delay(3)
        module.app.conf.task_default_queue = "changed"
    assert state_of(module.app) == before
    freed_at = time.monotonic()
    del kept
    assert time.monotonic() - freed_at < 5, "it looked for the broker that has ended"


def test_the_environments_addresses_are_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", ELSEWHERE)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", ELSEWHERE)
    with pytest.warns(UserWarning, match="result_backend stays your own"):
        module = shop(tmp_path, monkeypatch, "aid_addresses")
    before = state_of(module.app)
    with cluster(module.app):
        assert module.price.delay(2).get(timeout=30) == 4
    assert state_of(module.app) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_whatever_ends_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    module = shop(tmp_path, monkeypatch, f"aid_{error.__name__}")
    begun = tmp_path / "begun"
    before = state_of(module.app)
    running = processes()
    found: list[Any] = []
    with (  # noqa: PT012 - what is raised is raised by the block
        pytest.raises(error, match="the body's own"),
        cluster(module.app, spores=2) as started,
    ):
        module.hold.delay(str(begun), str(tmp_path / "never"))
        wait_until(begun.exists, 30, "it began")
        pids = [pid for pid in processes() if pid not in running]
        assert len(pids) >= 2 + 2 * 2
        found = [Path(started._directory), started.settings.redis_port, pids]
        raise error("the body's own")
    assert_nothing_is_left(*found)
    assert state_of(module.app) == before


def test_nothing_is_left_of_a_start_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = 'hive.install(app)\nif "worker" in sys.argv:\n    raise RuntimeError("no such table")'
    module = shop(tmp_path, monkeypatch, "aid_failing", failing)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before, running = state_of(module.app), processes()
    with (
        pytest.raises(HiveError, match=r"'spore-1' ended with exit code \d.* no such table"),
        cluster(module.app),
    ):
        pytest.fail("it has not started")
    assert state_of(module.app) == before
    assert not [pid for pid in processes() if pid not in running]
    assert not list(tmp_path.glob("hive-*"))


def test_a_killed_test_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop(tmp_path, monkeypatch, "aid_orphans")
    code = (
        "import os, signal, psutil, hive.testing, aid_orphans\n"
        "with hive.testing.cluster(aid_orphans.app, hive_drain_timeout=0) as started:\n"
        "    children = psutil.Process().children(recursive=True)\n"
        "    print(*(child.pid for child in children), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    pids = [int(pid) for pid in said.stdout.split()]
    assert len(pids) >= 3, said.stderr
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), 60, "all have ended")


def test_what_a_directory_of_ones_own_holds_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = shop(tmp_path, monkeypatch, "aid_directory")
    with cluster(module.app, directory=str(tmp_path / "kept")) as started:  # a text is a path, too
        printed = started.log("spore-1")
    assert (tmp_path / "kept" / "spore-1.log").read_text().startswith(printed)


def test_an_application_that_cannot_be_found_or_used_is_named_in_a_sentence() -> None:
    hidden = Celery("hidden", set_as_current=False)
    for app, fault in [
        (hidden, r'has the application \'hidden\'; pass its name as "module:app"'),
        ("no_such_module:app", r"'no_such_module:app' cannot be imported \(No module"),
        ("json:loads", r"'json:loads' is no Celery application"),
        ("json", r"'json' cannot be imported"),
        (None, "None is no Celery application; pass one"),
        (["shop:app"], "no Celery application"),
    ]:
        with pytest.raises(HiveError, match=fault), cluster(app):
            pytest.fail("it has not started")


def test_what_is_no_setting_or_not_to_be_set_is_refused() -> None:
    with (
        pytest.raises(InvalidInputError, match="hive_hartbeat: no setting"),
        cluster("hive:app", hive_hartbeat=1),
    ):
        pytest.fail("it has not started")
    with (
        pytest.raises(InvalidInputError, match="redis_host: a cluster for a test has"),
        cluster("hive:app", redis_host="x"),
    ):
        pytest.fail("it has not started")


@pytest.mark.parametrize(
    ("option", "value"),
    [("spores", "2"), ("spores", -1), ("concurrency", 0), ("concurrency", 1.5), ("directory", 7)],
)
def test_an_option_that_is_none_is_refused(option: str, value: Any) -> None:
    with (
        pytest.raises(InvalidInputError, match=f"^{option} is a .* it cannot be"),
        cluster("hive:app", **{option: value}),
    ):
        pytest.fail("it has not started")


def test_the_module_that_makes_an_application_is_found_before_those_that_import_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hive.testing.application import named

    (tmp_path / "aid_importer.py").write_text("from aid_maker import app\n")
    (tmp_path / "aid_maker.py").write_text("from celery import Celery\napp = Celery('made')\n")
    monkeypatch.syspath_prepend(tmp_path)
    importer: ModuleType = importlib.import_module("aid_importer")
    importer.app.set_current()
    assert named(importer.app) == ("aid_maker:app", importer.app)
    assert named(current_app)[0] == "aid_maker:app"


USERS_TEST = """
import os
import pytest
import stall

pytest_plugins = {plugins}


@pytest.fixture
def spores(hive_cluster):
    return hive_cluster("stall:app", spores=2)


def test_it_runs(spores, hive_cluster):
    assert stall.price.delay(2).get(timeout=30) == 4
    assert len(spores.nodes()) == 2


def test_it_fails(hive_cluster):
    started = hive_cluster(stall.app)
    print("port", started.settings.redis_port)
    assert stall.price.delay(2).get(timeout=30) == 5


def test_nobody_is_there_without_it():
    assert stall.app.conf.broker_url.endswith(":{port}/0")
"""


@pytest.mark.parametrize("by_option", [False, True])
def test_the_fixture_starts_hives_that_end_with_their_test(tmp_path: Path, by_option: bool) -> None:
    port = free_port()
    (tmp_path / "stall.py").write_text(SHOP.format(configuration=INSTALLED))
    plugins = [] if by_option else ["hive.testing"]
    (tmp_path / "test_stall.py").write_text(USERS_TEST.format(plugins=plugins, port=port))
    option = ("-p", "hive.testing") if by_option else ()
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *option],
        cwd=tmp_path,
        env={**os.environ, "REDIS_PORT": str(port), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "1 failed, 2 passed" in said.stdout, said.stdout + said.stderr
    assert "assert 4 == 5" in said.stdout
    used = int(said.stdout.partition("port ")[2].split()[0])
    assert not is_open(used)
    assert not list(tmp_path.glob("hive-*"))


def test_pytest_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None; import hive.testing; print(hive.testing.cluster)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr


def test_clusters_may_follow_one_another_and_be_nested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = shop(tmp_path, monkeypatch, "aid_outer")
    inner = shop(tmp_path, monkeypatch, "aid_inner")
    with cluster(outer.app) as first:
        with cluster(inner.app) as second:
            assert first.settings.redis_port != second.settings.redis_port
            assert inner.price.delay(2).get(timeout=30) == 4
            assert outer.price.delay(2).get(timeout=30) == 4
        assert outer.price.delay(4).get(timeout=30) == 8
        assert isinstance(first, Cluster)
