"""A hive whose broker speaks TLS: every connection is encrypted, and nothing is ever sent in plain
text instead.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, _state

import hive
from hive.broker.link.client import BrokerClient, broker_errors, client_of
from hive.errors import BrokerUnreachableError, SettingsError
from hive.settings import Settings
from tests.harness import BrokerServer, WorkerProcess
from tests.integration.essentials import Essentials
from tests.integration.secured import Certificates, TlsServer
from tests.nodes import make_settings


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    """Installing makes an application Celery's default."""
    default, current = _state.default_app, getattr(_state._tls, "current_app", None)
    yield
    _state.set_default_app(default)
    _state._set_current_app(current)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsServer]:
    started = TlsServer(tmp_path_factory.mktemp("tls") / "broker", certificates).start()
    yield started
    started.kill()


def settings_of(server: BrokerServer, **values: Any) -> Settings:
    return Settings.load(
        **{name.lower(): value for name, value in server.environment.items()} | values
    )


def install(settings: Settings, **conf: Any) -> Celery:
    app = Celery("tls", set_as_current=False)
    app.conf.update(conf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return hive.install(app, settings)


def test_a_hive_works_over_tls_with_a_client_certificate(server: TlsServer, tmp_path: Path) -> None:
    running = Essentials(tmp_path, server.environment)
    try:
        running.start("t1", "t2")
        running.all_work()
    finally:
        running.close()


def test_every_connection_of_an_installed_application_is_encrypted(server: TlsServer) -> None:
    app = install(settings_of(server))
    with app.connection_for_write() as connection:
        pools = [
            connection.default_channel.pool,
            client_of(app).redis.connection_pool,
            app.backend.client.connection_pool,
        ]
        assert connection.as_uri().startswith("redis://"), "rediss:// would be no TLS to kombu"
        for pool in pools:
            opened = pool.get_connection()
            assert isinstance(opened._sock, ssl.SSLSocket)
            assert opened._sock.context.verify_mode == ssl.CERT_REQUIRED
            assert opened._sock.context.check_hostname
            pool.release(opened)
    client_of(app).close()


def test_a_server_without_client_certificates_needs_the_authority_alone(
    certificates: Certificates, tmp_path: Path
) -> None:
    server = TlsServer(tmp_path / "broker", certificates, clients="no").start()
    try:
        client = BrokerClient(settings_of(server).redis_url, settings_of(server))
        assert client.redis.ping()
        client.close()
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"redis_tls_ca": "stranger"}, "certificate verify failed"),
        ({"redis_tls_ca": None}, "certificate verify failed"),
        ({"redis_host": "localhost"}, "Hostname mismatch"),
    ],
    ids=["another authority", "the system's authorities", "another name"],
)
def test_a_broker_that_cannot_prove_who_it_is_is_refused(
    server: TlsServer, certificates: Certificates, values: dict[str, Any], told: str
) -> None:
    named = {
        key: certificates.crt(value) if value == "stranger" else value
        for key, value in values.items()
    }
    with pytest.raises(BrokerUnreachableError, match=told) as caught:
        ping(settings_of(server, **named))
    assert "do not agree on TLS" in caught.value.message
    assert "REDIS_TLS_CA" in caught.value.message


def ping(settings: Settings) -> None:
    client = BrokerClient(settings.redis_url, settings, timeout=1)
    with broker_errors(client.address):
        client.redis.ping()


def test_a_broker_without_tls_gets_nothing_from_who_asked_for_it(
    broker: BrokerServer, certificates: Certificates
) -> None:
    with broker.client() as client:
        client.config_resetstat()
    settings = settings_of(
        broker, redis_tls=True, redis_tls_ca=certificates.crt("ca"), redis_password="hunter2"
    )
    with pytest.raises(BrokerUnreachableError, match="do not agree on TLS"):
        ping(settings)
    app = install(settings, broker_transport_options={"socket_timeout": 0.2})
    with app.connection_for_write() as connection, pytest.raises(connection.connection_errors):
        connection.channel()
    assert issubclass(app.backend.client.connection_pool.connection_class, redis.SSLConnection)
    with broker.client() as client:
        assert client.dbsize() == 0
        assert client.info("commandstats").get("cmdstat_auth") is None, "no password went out"


def test_a_worker_that_was_asked_for_tls_does_not_start_on_a_broker_without(
    broker: BrokerServer, certificates: Certificates, tmp_path: Path
) -> None:
    asked = {"REDIS_TLS": "true", "REDIS_TLS_CA": str(certificates.crt("ca"))}
    worker = WorkerProcess.celery(tmp_path, "plain", env={**broker.environment, **asked})
    try:
        assert worker.process.wait(30) == 2
        assert "event=worker_cannot_start" in worker.output()
        assert "speaks plain text there. Set REDIS_PORT to the port of its TLS" in worker.output()
    finally:
        worker.kill()


def test_who_loses_the_parameters_afterwards_still_speaks_tls(server: TlsServer) -> None:
    app = install(settings_of(server))
    app.conf.broker_use_ssl = None
    with (
        app.connection_for_write() as connection,
        pytest.raises(Exception, match="certificate verify failed"),
    ):
        connection.channel()


def test_a_client_without_tls_is_told_that_the_broker_does_not_answer(server: TlsServer) -> None:
    with pytest.raises(BrokerUnreachableError):
        ping(make_settings(redis_host="127.0.0.1", redis_port=server.port))


# -- what the application had


@pytest.mark.parametrize("name", ["broker_use_ssl", "redis_backend_use_ssl"])
@pytest.mark.parametrize("own", [False, None, True, {}])
def test_an_application_that_would_go_out_in_plain_text_does_not_start(
    certificates: Certificates, name: str, own: Any
) -> None:
    settings = make_settings(redis_tls=True, redis_tls_ca=certificates.crt("ca"))
    with pytest.raises(SettingsError, match=f"{name}={own!r} would send everything in plain text"):
        install(settings, **{name: own})


def test_tls_that_is_none_is_refused_without_redis_tls_too() -> None:
    with pytest.raises(
        SettingsError, match="broker_use_ssl=True would send everything in plain text"
    ):
        install(make_settings(), broker_use_ssl=True)


def test_the_applications_own_parameters_are_those_of_every_connection(
    server: TlsServer, certificates: Certificates
) -> None:
    own = {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certs": str(certificates.crt("ca")),
        "ssl_certfile": str(certificates.crt("client")),
        "ssl_keyfile": str(certificates.key("client")),
    }
    settings = make_settings(
        redis_host="127.0.0.1",
        redis_port=server.port,
        redis_password=settings_of(server).redis_password,
    )
    app = install(settings, broker_use_ssl=own)
    with app.connection_for_write() as connection:
        assert connection.default_channel.client.ping()
    assert client_of(app).redis.ping()
    assert client_of(app).with_timeout(1).redis.ping()
    assert app.backend.client.ping()
    client_of(app).close()


def test_another_result_server_is_left_as_it_is(certificates: Certificates) -> None:
    app = Celery("tls", set_as_current=False)
    app.conf.result_backend = "redis://results:6379/1"
    with pytest.warns(UserWarning, match="result_backend stays your own"):
        hive.install(app, make_settings(redis_tls=True, redis_tls_ca=certificates.crt("ca")))
    assert not app.conf.redis_backend_use_ssl


def test_rediss_is_answered_with_how_it_is_done_here() -> None:
    with pytest.raises(SettingsError, match=r"Hive needs redis://host:port/db and REDIS_TLS=true"):
        install(make_settings(), broker_url="rediss://h:6379/0")


def test_a_disabled_hive_leaves_plain_celery_with_tls(server: TlsServer) -> None:
    app = install(settings_of(server, enable_hive=False))
    with app.connection_for_write() as connection:
        assert isinstance(connection.default_channel.pool.get_connection()._sock, ssl.SSLSocket)
    assert app.backend.client.ping()


# -- settings


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"redis_tls": True, "redis_tls_ca": "nowhere.crt"},
            "REDIS_TLS_CA cannot be 'nowhere.crt': it is not a readable file",
        ),
        (
            {"redis_tls_ca": "ca.crt"},
            (
                "REDIS_TLS_CA is set, but REDIS_TLS is not true: "
                "everything would be sent in plain text"
            ),
        ),
        (
            {"redis_tls": True, "redis_tls_key": "client.key"},
            "REDIS_TLS_KEY is set, but not the REDIS_TLS_CERT that it belongs to",
        ),
        ({"redis_tls": True, "redis_tls_ca": "client.key"}, "has no certificate that can be read"),
        (
            {"redis_tls": True, "redis_tls_cert": "client.crt", "redis_tls_key": "server.key"},
            "are no certificate and its unencrypted key",
        ),
        (
            {"redis_tls": True, "redis_tls_cert": "client.crt"},
            "are no certificate and its unencrypted key",
        ),
    ],
)
def test_certificates_that_no_connection_could_use_are_refused_at_once(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(certificates.directory)
    with pytest.raises(SettingsError) as caught:
        Settings.load(**values)
    assert told in caught.value.message


def test_empty_paths_are_not_set() -> None:
    settings = Settings.load(
        redis_tls="false", redis_tls_ca="", redis_tls_cert="", redis_tls_key=""
    )
    assert (
        settings.redis_tls,
        settings.redis_tls_ca,
        settings.redis_tls_cert,
        settings.redis_tls_key,
    ) == (False, None, None, None)
