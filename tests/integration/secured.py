"""Brokers that speak TLS, or have users with rights;
certificates and users are made for the test.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis

from tests.harness import BrokerServer, server_binary

USERS = Path(__file__).parents[2] / "config" / "users.acl"


def tls_binary() -> str:
    """A server program of this machine that was built with TLS;
    skips the test when there is none.
    """
    for binary in dict.fromkeys(
        found
        for found in (server_binary(), shutil.which("valkey-server"), shutil.which("redis-server"))
        if found
    ):
        # Each ends at once: one with TLS misses its certificate, one without does not know what is
        # asked of it.
        told = subprocess.run(
            [binary, "--port", "0", "--tls-port", "1", "--save", ""],
            capture_output=True,
            text=True,
            timeout=10,
        )
        if "No tls-cert-file configured" in told.stdout:
            return binary
    pytest.skip("no server program on this machine was built with TLS (Debian's redis-server is)")


class Certificates:
    """An authority, and what it has signed: `server` for 127.0.0.1, `elsewhere` for another name,
    `client`.
    """

    def __init__(self, directory: Path) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("there is no openssl on this machine to make certificates with")
        self._openssl = openssl
        self.directory = directory
        self._make("ca", "-x509")
        self._make("stranger", "-x509")
        for name, subject in (
            ("server", "IP:127.0.0.1"),
            ("elsewhere", "DNS:elsewhere.example"),
            ("client", "DNS:client.example"),
        ):
            signed = ("-CA", str(self.crt("ca")), "-CAkey", str(self.key("ca")))
            self._make(
                name,
                "-x509",
                *signed,
                "-addext",
                f"subjectAltName={subject}",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            )

    def crt(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def _make(self, name: str, *options: str) -> None:
        command = [
            self._openssl,
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ]
        command += [
            "-subj",
            f"/CN=hive test {name}",
            "-keyout",
            str(self.key(name)),
            "-out",
            str(self.crt(name)),
            *options,
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=20)


class TlsServer(BrokerServer):
    """Listens for TLS alone; it asks its clients for a certificate unless `clients` is "no"."""

    def __init__(
        self,
        directory: Path,
        certificates: Certificates,
        *,
        name: str = "server",
        clients: str = "yes",
    ) -> None:
        super().__init__(directory, binary=tls_binary(), password="a-secret", durable=False)
        self.certificates = certificates
        self.clients = clients
        files = (
            "--tls-cert-file",
            certificates.crt(name),
            "--tls-key-file",
            certificates.key(name),
        )
        authority = ("--tls-ca-cert-file", certificates.crt("ca"))
        ports: Sequence[object] = ("--port", 0, "--tls-port", self.port)
        self.options = [
            str(option) for option in (*ports, *files, *authority, "--tls-auth-clients", clients)
        ]

    @property
    def environment(self) -> dict[str, str]:
        env = {
            **super().environment,
            "REDIS_TLS": "true",
            "REDIS_TLS_CA": str(self.certificates.crt("ca")),
        }
        if self.clients == "yes":
            env |= {
                "REDIS_TLS_CERT": str(self.certificates.crt("client")),
                "REDIS_TLS_KEY": str(self.certificates.key("client")),
            }
        return env

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            db=db,
            password=self.password,
            socket_timeout=10,
            ssl=True,
            ssl_check_hostname=False,
            ssl_ca_certs=str(self.certificates.crt("ca")),
            ssl_certfile=str(self.certificates.crt("client")),
            ssl_keyfile=str(self.certificates.key("client")),
        )


class AclServer(BrokerServer):
    """Has the users of config/users.acl; `environment` is that of its user `hive`, `client` is its
    administrator.

    prefix: stands before every pattern of `hive`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        prefix: str = "",
        durable: bool = False,
        binary: str | None = None,
    ) -> None:
        super().__init__(directory, durable=durable, binary=binary)
        directory.mkdir(parents=True, exist_ok=True)
        users = directory / "users.acl"
        written = (
            USERS.read_text()
            .replace("CHANGE-THIS-1", "admins-secret")
            .replace("CHANGE-THIS-2", "hives-secret")
        )
        default, admin, hive = written.splitlines()
        users.write_text("\n".join((default, admin, re.sub(r" ([~&])", rf" \1{prefix}", hive), "")))
        self.options = ["--aclfile", str(users)]

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "REDIS_USERNAME": "hive", "REDIS_PASSWORD": "hives-secret"}

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            db=db,
            username="admin",
            password="admins-secret",
            socket_timeout=10,
        )

    def refused(self) -> set[tuple[str, str, str]]:
        """What users were refused since the server began: (why, command, key or channel or
        command).
        """
        with self.client() as client:
            return {
                (entry["reason"], entry["context"], entry["object"])
                for entry in client.acl_log(128)
            }
