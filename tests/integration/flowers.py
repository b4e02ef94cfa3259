"""`hive flower` as a process, asked over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.harness import WorkerProcess, wait_until
from tests.integration.cluster import REPOSITORY

PASSWORD = 'a pässword: of 32, "characters" & more%20'


class FlowerProcess:
    """A Flower on a free port, with a password unless another one is named; kill it, whatever
    happened.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        *options: str,
        password: str = PASSWORD,
        home: Path | None = None,
    ) -> None:
        """home: HIVE_HOME, where it is not the directory's own."""
        self.password = password
        self.home = home or directory / "home"
        number = len(list(directory.glob("flower-*.log")))
        self.process = WorkerProcess(
            directory / f"flower-{number}.log",
            sys.executable,
            "-m",
            "hive",
            "flower",
            "--port=0",
            "--json",
            *options,
            env={
                **environment,
                "HIVE_HOME": str(self.home),
                "HIVE_FLOWER_PASSWORD": password,
                "PYTHONPATH": str(REPOSITORY),
            },
            cwd=directory,
        )

    @property
    def url(self) -> str:
        """Where it listens, once it does."""

        def told() -> str | None:
            assert self.process.process.poll() is None, self.process.output()
            for line in self.process.output().splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    return str(json.loads(line)["url"])
            return None

        return str(wait_until(told, what="flower listens"))

    def ask(
        self,
        path: str,
        *,
        login: str | None = "",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """The status and the text of an answer.

        login: `user:password`; "" is the right one, None is none.
        """
        request = urllib.request.Request(
            self.url + path, method=method, headers=dict(headers or {}), data=None
        )
        if login is not None and self.password:
            given = login or f"hive:{self.password}"
            encoded = base64.b64encode(given.encode()).decode()
            request.add_header("Authorization", f"Basic {encoded}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        status, text = self.ask(path)
        assert status == 200, text
        return json.loads(text)

    def workers(self) -> dict[str, bool]:
        """The workers that it knows, and whether they are online."""
        found: dict[str, bool] = self.json("api/workers?status=1")
        return found

    def states(self) -> dict[str, str]:
        """The state of each task, by its id."""
        return {task_id: task["state"] for task_id, task in self.json("api/tasks").items()}
