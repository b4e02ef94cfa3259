"""Every command against a real hive: what it prints, its JSON, its exit code, and bad input without
a traceback.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness import BrokerServer, WorkerProcess, free_port, wait_until
from tests.integration.cluster import REPOSITORY, Cluster
from tests.unit.page_server import page_server

SKILLS = ("-I", "tests.integration.jobs,tests.integration.cli_skills")
APP = "--app=tests.integration.cli_app:app"


class Cli:
    """Runs `hive` against one broker."""

    program: tuple[str, ...] = ("-m", "hive")

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self.environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
        self.directory = directory

    def __call__(
        self,
        *arguments: str | Path,
        code: int = 0,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its exit code must be `code`, and nothing it prints a
        traceback.
        """
        done = subprocess.run(
            [sys.executable, *self.program, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**self.environment, **(env or {})},
            cwd=self.directory,
        )
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        assert done.returncode == code, said
        return done

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, *self.program, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(
            command,
            text=True,
            env=self.environment,
            cwd=self.directory,
            start_new_session=True,
            **pipes,
        )


@pytest.fixture(scope="module")
def hive_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cli"))
    try:
        for name in ("a", "b"):
            cluster.spawn(name, options=SKILLS)
        cluster.wait_online("a", "b")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cli(hive_of_two: Cluster, tmp_path: Path) -> Cli:
    return Cli(hive_of_two.server.environment, tmp_path)


@pytest.fixture
def lonely(broker: BrokerServer, tmp_path: Path) -> Cli:
    """A broker without a spore."""
    return Cli(broker.environment, tmp_path)


def strictly(text: str) -> Any:
    """Read as programs do that know no NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


class TestWhatCannotBeSaid:
    def test_what_is_no_number_is_null(self, cli: Cli) -> None:
        said = {"mean": None, "all": [None, 1]}
        assert strictly(cli("run", "not_numbers", "1", APP).stdout) == said
        assert strictly(cli("run", "not_numbers", "1", APP, "--json").stdout)["result"] == said
        (one,) = strictly(cli("map", "not_numbers", "1", APP, "--json").stdout)["outcomes"]
        assert one["value"] == said
        listed = cli("map", "not_numbers", "1", APP, "--reduce", "list").stdout
        assert strictly(listed) == [said]
        kept = cli("map", "mirror", "12e45678", "NaN", APP, "--reduce", "list").stdout
        assert strictly(kept) == ["12e45678", "NaN"]

    @pytest.mark.parametrize(
        ("encoding", "env"),
        [
            ("cp1252", {"PYTHONIOENCODING": "cp1252:strict"}),
            ("utf-8", {"LC_ALL": "C", "LANG": "C"}),
            ("ascii", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ],
    )
    def test_text_that_the_terminal_does_not_have_is_escaped(
        self, cli: Cli, encoding: str, env: dict[str, str]
    ) -> None:
        value = "\ud83d é € \U0001f600 \x1b[31m\x9b\0"
        word, env = json.dumps(value), {**os.environ, **cli.environment, **env}

        def run(*arguments: str, code: int = 0) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "hive", *arguments, APP],
                capture_output=True,
                env=env,
                cwd=cli.directory,
                timeout=60,
            )
            assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
            assert done.returncode == code
            return done.stdout.decode(encoding)

        assert "\\ud83d" in run("run", "mirror", word)
        assert strictly(run("run", "mirror", word, "--json"))["result"] == value
        assert "\\ud83d" in run("map", "mirror", word, "1")
        outcomes = strictly(run("map", "mirror", word, "1", "--json"))["outcomes"]
        assert sorted(str(outcome["value"]) for outcome in outcomes) == sorted(["1", value])
        assert "\\ud83d" in run("map", "fail", word, code=1)
        told = strictly(run("run", "fail", word, "--json", code=1))
        assert told["error"].startswith("ValueError: \\ud83d é €")

    def test_a_command_that_fails_before_it_has_an_answer_answers_with_its_error(
        self, cli: Cli
    ) -> None:
        nowhere = {"REDIS_PORT": str(free_port())}
        for command in ("status", "dead list", "queue stats", "node list", "run mirror 1"):
            done = cli(*command.split(), "--json", code=3, env=nowhere)
            assert "does not answer" in strictly(done.stdout)["error"]
            assert done.stderr.count("\n") == 1
        assert (
            "neither"
            in strictly(cli("run", "mirror", "--json", "--priority=x", code=2).stdout)["error"]
        )
        assert cli("status", code=3, env=nowhere).stdout == ""

    def test_a_map_whose_broker_is_lost_ends_its_json(self, tmp_path: Path) -> None:
        cluster = Cluster(tmp_path)
        try:
            cluster.spawn("a", options=SKILLS)
            cluster.wait_online("a")
            cli = Cli(cluster.server.environment, tmp_path)
            path = tmp_path / "held"
            program = (
                "import sys, hive.jobs.answer.job as job, hive.cli; job.READERS_WAIT = 1.0; "
                f"sys.argv = ['hive', 'map', 'hold', {str(path)!r}, 'gone/x', '--json', {APP!r}]; "
                "hive.cli.main()"
            )
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            with subprocess.Popen(
                [sys.executable, "-c", program],
                text=True,
                env=cli.environment,
                cwd=tmp_path,
                **pipes,
            ) as running:
                wait_until(path.exists)
                cluster.server.kill()
                out, err = running.communicate(timeout=60)
            assert (running.returncode, "Traceback" in err) == (3, False), err
            told = strictly(out)
            assert "does not answer" in told["error"]
            assert told["over"] is False
            assert told["total"] is None
        finally:
            cluster.close()


class TestLooking:
    def test_status_is_the_cluster_status(self, cli: Cli, hive_of_two: Cluster) -> None:
        status = json.loads(cli("status", "--json").stdout)
        assert (status["total_nodes"], status["online_nodes"], status["offline_nodes"]) == (2, 2, 0)
        assert [node["node_id"] for node in status["nodes"]] == ["a@h", "b@h"]
        assert {node["pid"] for node in status["nodes"]} == {
            spore.pid for spore in hive_of_two.spores
        }
        assert all(node["slots"] == 2 and node["is_online"] for node in status["nodes"])

    def test_status_shows_nodes_and_queues(self, cli: Cli) -> None:
        said = cli("status").stdout
        assert "2 of 2 nodes online" in said
        assert "a@h" in said
        assert "waiting, background" in said

    def test_node_list(self, cli: Cli) -> None:
        assert [node["node_id"] for node in json.loads(cli("node", "list", "--json").stdout)] == [
            "a@h",
            "b@h",
        ]
        assert "b@h" in cli("node", "list").stdout

    def test_queue_stats(self, cli: Cli) -> None:
        stats = json.loads(cli("queue", "stats", "--json").stdout)
        assert stats["connected"] is True
        assert (
            stats["total_queued"] == stats["high_priority_queue"] + stats["background_queue"] == 0
        )
        assert "dead letters" in cli("queue", "stats").stdout

    def test_skills_need_no_broker(self, cli: Cli) -> None:
        nowhere = {"REDIS_PORT": str(free_port())}
        names = {skill["name"] for skill in json.loads(cli("skills", "--json", env=nowhere).stdout)}
        assert {"fetch", "web_scraping", "summarize", "scan_path", "scan_requirements"} <= names
        assert "double" in cli("skills", APP, env=nowhere).stdout

    def test_without_a_spore_status_says_how_to_start_one(self, lonely: Cli) -> None:
        assert "start one with `hive spore`" in lonely("status").stdout
        assert json.loads(lonely("status", "--json").stdout)["nodes"] == []
        assert "hive spore" in lonely("node", "list").stdout


class TestMap:
    def test_outcomes_are_lines(self, cli: Cli) -> None:
        done = cli("map", "double", "1", "2", "3", APP)
        assert sorted(line.split()[0] for line in done.stdout.splitlines()) == ["0", "1", "2"]
        assert all(" ok " in line for line in done.stdout.splitlines())
        assert "3 of 3 items done" in done.stderr

    def test_json_is_one_document_with_every_outcome(self, cli: Cli) -> None:
        answer = json.loads(cli("map", "double", "1", "2", "3", APP, "--json").stdout)
        assert (answer["total"], answer["completed"], answer["failed"]) == (3, 3, 0)
        assert sorted((one["index"], one["value"]) for one in answer["outcomes"]) == [
            (0, 2),
            (1, 4),
            (2, 6),
        ]
        assert {one["node"] for one in answer["outcomes"]} <= {"a@h", "b@h"}

    def test_a_reduce_gives_one_value(self, cli: Cli) -> None:
        assert cli("map", "double", "1", "2", "3", APP, "--reduce", "sum").stdout == "12\n"
        assert json.loads(cli("map", "double", "1", "2", APP, "--reduce", "list", "--json").stdout)[
            "value"
        ] == [2, 4]

    def test_items_come_from_a_file_and_from_stdin(self, cli: Cli) -> None:
        (cli.directory / "numbers.json").write_text("[1, 2, 3]")
        assert cli("map", "double", "numbers.json", APP, "--reduce", "sum").stdout == "12\n"
        numbers = "".join(f"{number}\n" for number in range(1000))
        assert cli("map", "double", "-", APP, "--reduce", "sum", stdin=numbers).stdout == "999000\n"

    def test_an_object_is_the_fields_of_the_input_model_and_set_adds_to_it(self, cli: Cli) -> None:
        text = (
            "Cats sleep all day long. Dogs bark at cats when they see cats. "
            "Birds sing in the morning."
        )
        answer = json.loads(
            cli(
                "map",
                "summarize",
                json.dumps({"text": text}),
                text,
                "--set",
                "sentences=1",
                "--json",
            ).stdout
        )
        assert [len(one["value"]["sentences"]) for one in answer["outcomes"]] == [1, 1]

    def test_one_bad_item_is_partly_failed(self, cli: Cli) -> None:
        answer = json.loads(cli("map", "double", "1", "null", APP, "--json", code=4).stdout)
        assert (answer["completed"], answer["failed"]) == (1, 1)
        assert next(
            one["error"] for one in answer["outcomes"] if one["status"] == "failed"
        ).startswith("TypeError")

    def test_all_bad_items_are_failed(self, cli: Cli) -> None:
        done = cli("map", "fail", "x", "y", APP, code=1)
        assert "ValueError: x" in done.stdout
        assert "2 failed" in done.stderr
        assert "cannot be written as JSON" in cli("map", "unwritable", "1", APP, code=1).stdout

    def test_a_task_that_is_no_skill_is_found_by_its_name(self, cli: Cli) -> None:
        assert cli("map", "plain.square", "2", "3", APP, "--reduce", "sum").stdout == "13\n"

    def test_ctrl_c_cancels_the_job(self, cli: Cli, tmp_path: Path) -> None:
        held = tmp_path / "held"
        running = cli.start("map", "hold", held, APP)
        wait_until(held.exists)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
        assert running.returncode == 130
        assert "Traceback" not in said
        job_id = said.split()[1].rstrip(":")
        cli("job", job_id, "--follow", code=1)
        assert "cancelled" in cli("job", job_id, code=1).stdout

    def test_a_deadline_ends_what_is_not_done(self, cli: Cli, tmp_path: Path) -> None:
        answer = json.loads(
            cli("map", "hold", tmp_path / "held", APP, "--timeout", "1.5", "--json", code=1).stdout
        )
        assert [one["status"] for one in answer["outcomes"]] == ["timeout"]

    def test_without_a_spore_it_says_why_it_waits_and_fails_at_the_deadline(
        self, lonely: Cli
    ) -> None:
        done = lonely("map", "summarize", "A text.", "--timeout", "1", code=3)
        assert "no spore is online; waiting" in done.stderr
        assert "start one with `hive spore`" in done.stderr.splitlines()[-1]

    def test_it_goes_on_when_a_spore_comes(
        self, lonely: Cli, broker: BrokerServer, tmp_path: Path
    ) -> None:
        running = lonely.start("map", "double", "21", APP, "--json")
        spore = WorkerProcess.celery(
            tmp_path,
            "late",
            env={**broker.environment, "PYTHONPATH": str(REPOSITORY)},
            options=SKILLS,
        )
        try:
            out, said = running.communicate(timeout=60)
        finally:
            spore.stop()
        assert "no spore is online; waiting" in said
        assert json.loads(out)["outcomes"][0]["value"] == 42


class TestRun:
    def test_it_prints_what_the_task_returns(self, cli: Cli) -> None:
        assert cli("run", "double", "21", APP).stdout == "42\n"
        assert cli("run", "double", "number=4", APP, "--priority", "high_priority").stdout == "8\n"
        assert (
            cli(
                "run",
                "plain.square",
                "3",
                APP,
                "--priority",
                "9",
                "--requirements",
                '{"node": "b@h"}',
            ).stdout
            == "9\n"
        )

    def test_json_is_the_tasks_record(self, cli: Cli) -> None:
        record = json.loads(
            cli("run", "double", "21", APP, "--json", "--requirements", '{"node": "a@h"}').stdout
        )
        assert (
            record["task_type"],
            record["status"],
            record["result"],
            record["assigned_node"],
        ) == ("double", "completed", 42, "a@h")

    def test_a_failure_is_one_line(self, cli: Cli) -> None:
        done = cli("run", "fail", "what a day", APP, code=1)
        assert done.stdout == ""
        assert "ValueError: what a day" in done.stderr
        assert (
            json.loads(cli("run", "fail", "x", APP, "--json", code=1).stdout)["status"] == "failed"
        )

    def test_a_task_that_takes_too_long_is_revoked(self, cli: Cli, tmp_path: Path) -> None:
        said = cli("run", "hold", tmp_path / "held", APP, "--timeout", "2", code=1).stderr
        assert "was not done within" in said
        assert "is revoked" in said

    def test_ctrl_c_revokes_the_task(self, cli: Cli, tmp_path: Path) -> None:
        held = tmp_path / "held"
        running = cli.start("run", "hold", held, APP)
        wait_until(held.exists)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
        assert (running.returncode, "is revoked" in said, "Traceback" in said) == (130, True, False)

    def test_without_a_spore_it_fails_at_the_deadline(self, lonely: Cli) -> None:
        assert (
            "no spore is online; waiting"
            in lonely("run", "summarize", "A text.", "--timeout", "1", code=3).stderr
        )


class TestScan:
    @pytest.fixture
    def tree(self, cli: Cli) -> Path:
        tree = cli.directory / "tree"
        tree.mkdir()
        (tree / "bad.py").write_text("import subprocess\nsubprocess.call(input(), shell=True)\n")
        (tree / "good.py").write_text("x = 1\n")
        (tree / "requirements.txt").write_text("requests\nclick==8.1.0\n")
        return tree

    def test_it_reports_the_findings_of_every_file(self, cli: Cli, tree: Path) -> None:
        report = json.loads(cli("scan", tree, "--json").stdout)
        assert {"B404", "B602"} <= {found["rule"] for found in report["findings"]}
        assert {Path(found["path"]).name for found in report["findings"]} == {
            "bad.py",
            "requirements.txt",
        }
        assert (report["files"], report["failures"]) == (3, [])
        assert report["findings"][0]["severity"] == "HIGH"
        assert "bad.py:2" in cli("scan", tree).stdout

    def test_a_severity_can_fail_it(self, cli: Cli, tree: Path) -> None:
        cli("scan", tree, "--fail-on", "high", code=1)
        cli("scan", tree / "good.py", "--fail-on", "low")

    def test_what_could_not_be_scanned_is_named_and_fails_it(self, cli: Cli, tree: Path) -> None:
        (tree / "good.py").write_text("print 'Python 2'\n")
        (tree / "deploy.ps1").write_text("$key = 'x'\r\n", encoding="utf-16")
        (tree / "big.txt").write_text("long\n" * 300_000)
        (tree / "logo.png").write_bytes(b"\x89PNG\0\0")
        unread = {"good.py", "deploy.ps1", "big.txt"}
        report = json.loads(cli("scan", tree, "--json", code=4).stdout)
        assert unread == {
            Path(left["path"]).name for left in report["skipped"] if left.get("unread")
        }
        assert report["files"] == 5
        told = cli("scan", tree, code=4)
        assert all(f"tree/{name}" in told.stdout for name in unread)
        assert "3 not scanned or not fully, 1 left out" in told.stderr
        cli("scan", tree, "--fail-on", "high", code=1)
        (tree / "bad.py").write_text("x = 1\n")
        cli("scan", tree, "--fail-on", "high", code=1)

    def test_when_nothing_could_be_scanned_it_has_failed(self, cli: Cli, tree: Path) -> None:
        (tree / "good.py").write_text("print 'Python 2'\n")
        assert "good.py" in cli("scan", tree / "good.py", code=1).stdout
        (tree / "good.py").write_text("print('3')\n", encoding="utf-16")
        assert "UTF-16" in cli("scan", tree / "good.py", code=1).stdout

    def test_a_file_of_requirements_may_include_others_of_the_tree(
        self, cli: Cli, tree: Path
    ) -> None:
        (tree / "requirements").mkdir()
        (tree / "requirements" / "test.requirements.txt").write_text("-r ../requirements.txt\n")
        report = json.loads(cli("scan", tree, "--json").stdout)
        assert (report["skipped"], report["failures"]) == ([], [])

    def test_a_tree_without_text_is_wrong_use(self, cli: Cli) -> None:
        (cli.directory / "empty").mkdir()
        assert "nothing to scan" in cli("scan", "empty", code=2).stderr


class TestJob:
    def test_a_job_is_seen_from_another_process(self, cli: Cli) -> None:
        job_id = json.loads(
            cli("map", "double", "1", "2", APP, "--reduce", "sum", "--json").stdout
        )["job_id"]
        seen = json.loads(cli("job", job_id, "--json").stdout)
        assert (seen["over"], seen["completed"], seen["value"]) == (True, 2, 6)
        assert [one["value"] for one in seen["outcomes"]] == [2, 4]
        assert cli("job", job_id).stdout.splitlines()[-1] == "6"

    def test_a_long_input_whose_outcomes_were_dropped_has_gone_well(self, cli: Cli) -> None:
        keeps_little = "import hive.jobs.answer.job as job; job.KEPT_BYTES = 100_000"
        cli.program = ("-c", f"{keeps_little}; from hive.cli import main; main()")
        count = 2_000
        lines = "".join(f"{number:0500}\n" for number in range(count))
        done = cli("map", "double", "-", APP, stdin=lines)
        assert len(done.stdout.splitlines()) == count
        assert f"{count} of {count} items done" in done.stderr
        job_id = done.stderr.split()[1].rstrip(":")
        for follow in ((), ("--follow",)):
            seen = cli("job", job_id, "--json", *follow)
            answer = json.loads(seen.stdout)
            assert (answer["over"], answer["completed"]) == (True, count)
            assert 0 < len(answer["outcomes"]) < count
            assert "of the outcomes were dropped" in seen.stderr

    def test_following_one_that_runs_and_leaving_it(self, cli: Cli, tmp_path: Path) -> None:
        held = tmp_path / "held"
        running = cli.start("map", "hold", held, APP)
        wait_until(held.exists)
        job_id = running.stderr.readline().split()[1].rstrip(":")
        seen = json.loads(cli("job", job_id, "--json").stdout)
        assert (seen["over"], seen["running"], seen["outcomes"]) == (False, 1, [])
        left = cli.start("job", job_id, "--follow")
        wait_until(psutil.Process(left.pid).net_connections, what="it asks the broker")
        left.send_signal(signal.SIGINT)
        left.communicate(timeout=20)
        assert left.returncode == 130
        Path(f"{held}.go").touch()
        running.communicate(timeout=20)
        assert running.returncode == 0
        assert "let go" in cli("job", job_id, "--follow").stdout

    def test_cancelling_one_that_runs(self, cli: Cli, tmp_path: Path) -> None:
        held = tmp_path / "held"
        running = cli.start("map", "hold", held, APP)
        wait_until(held.exists)
        job_id = running.stderr.readline().split()[1].rstrip(":")
        cli("job", job_id, "--cancel")
        out, _ = running.communicate(timeout=20)
        assert running.returncode == 1
        assert "cancelled" in out

    def test_an_unknown_one_is_said(self, cli: Cli) -> None:
        assert "No job has the id" in cli("job", "nope", code=1).stderr


class TestBadInput:
    CLUSTER_COMMANDS = (
        ("status",),
        ("node", "list"),
        ("queue", "stats"),
        ("map", "summarize", "A text."),
        ("run", "summarize", "A text."),
        ("scan", "."),
        ("job", "x"),
    )

    @pytest.mark.parametrize("command", CLUSTER_COMMANDS, ids=" ".join)
    def test_a_broker_that_is_down(self, tmp_path: Path, command: tuple[str, ...]) -> None:
        (tmp_path / "a.py").write_text("x = 1\n")
        nowhere = Cli(
            {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(free_port()), "NEXUS_PORT": "0"}, tmp_path
        )
        done = nowhere(*command, code=3)
        assert done.stderr.startswith("hive: The broker at 127.0.0.1:")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""

    @pytest.mark.slow
    def test_a_broker_that_is_away_midway_is_waited_for(self, tmp_path: Path) -> None:
        cluster = Cluster(tmp_path)
        held = [tmp_path / "mapped", tmp_path / "run"]
        try:
            cluster.spawn("a", options=SKILLS)
            cluster.wait_online("a")
            lost = Cli(cluster.server.environment, tmp_path)
            running = [
                lost.start("map", "hold", held[0], APP),
                lost.start("run", "hold", held[1], APP),
            ]
            wait_until(lambda: all(path.exists() for path in held))
            cluster.server.kill()
            for command in running:
                assert command.stderr is not None
                said = iter(command.stderr.readline, "")
                assert any("_waits_for_broker" in line for line in said), "it says so at once"
            cluster.server.start()
            for path in held:
                Path(f"{path}.go").touch()
            for command in running:
                out, said = command.communicate(timeout=60)
                assert (command.returncode, "let go" in out) == (0, True), said
                assert "Traceback" not in said
        finally:
            cluster.close()

    def test_a_server_that_is_no_broker(self, tmp_path: Path) -> None:
        with page_server() as server:
            wrong = Cli({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port)}, tmp_path)
            said = wrong("status", code=3).stderr
        assert said.startswith("hive: What answers at 127.0.0.1:")
        assert "is neither Redis nor Valkey" in said
        assert said.count("\n") == 1

    def test_a_wrong_password(self, tmp_path: Path) -> None:
        server = BrokerServer(tmp_path / "broker", password="right").start()
        try:
            for password in ("", "wrong"):
                for command in ("status", "nexus"):
                    wrong = Cli(
                        {**server.environment, "REDIS_PASSWORD": password, "NEXUS_PORT": "0"},
                        tmp_path,
                    )
                    assert "refused the credentials" in wrong(command, code=3).stderr
        finally:
            server.kill()

    @pytest.mark.parametrize("command", [("status",), ("skills",), ("nexus",)], ids=" ".join)
    def test_a_wrong_setting(self, tmp_path: Path, command: tuple[str, ...]) -> None:
        said = Cli({"REDIS_PORT": "none"}, tmp_path)(*command, code=2).stderr
        assert said.startswith("hive: REDIS_PORT cannot be 'none'")

    def test_an_env_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert (
            "HIVE_ENV_FILE"
            in Cli({"HIVE_ENV_FILE": "/no/such/file"}, tmp_path)("status", code=2).stderr
        )

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (("map", "nope", "1"), 2, "There is no skill named 'nope'. Known skills: "),
            (("run", "nope"), 2, "There is no skill named 'nope'"),
            (("map", "double", "missing.json", APP), 2, "There is no file 'missing.json'"),
            (("map", "double", "bad.json", APP), 2, "bad.json is not a JSON list"),
            (("map", "double", "object.json", APP), 2, "not a list"),
            (("map", "double", "empty.json", APP), 2, "empty list"),
            (("map", "double", "latin.txt", APP), 2, "not UTF-8"),
            (("map", "double", "1", APP, "--reduce", "product"), 2, "product"),
            (("map", "double", "1", APP, "--requirements", "gpu"), 2, "--requirements is not JSON"),
            (("map", "double", "1", APP, "--requirements", '{"colour": "red"}'), 2, "colour"),
            (("map", "double", "1", APP, "--requirements", '{"gpu": true}'), 1, "requires a GPU"),
            (("run", "double", "1", APP, "--requirements", '{"memory_mb": 99999999}'), 1, "memory"),
            (("map", "summarize", "a", "--set", "sentences=none"), 2, "--set sentences"),
            (("map", "summarize", "a", "--set", "colour=red"), 2, "no field 'colour'"),
            (("run", "summarize", "a", "colour=red"), 2, "unknown argument colour"),
            (("run", "double", APP), 2, "double"),
            (("run", "double", "1", "2", APP), 2, "double"),
            (("skills", "--app", "no.such.module:app"), 2, "No module named"),
            (
                ("map", "double", "1", "--app", "tests.integration.cli_app:not_an_app"),
                2,
                "no Celery application",
            ),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_what_cannot_be_used_is_said(
        self, cli: Cli, arguments: tuple[str, ...], code: int, said: str
    ) -> None:
        (cli.directory / "bad.json").write_text("[1,")
        (cli.directory / "object.json").write_text('{"a": 1}')
        (cli.directory / "empty.json").write_text("[]")
        (cli.directory / "latin.txt").write_bytes(b"caf\xe9\n")
        done = cli(*arguments, code=code)
        assert said in done.stderr
        assert done.stdout == ""

    def test_bytes_on_stdin_that_are_no_text(self, cli: Cli) -> None:
        command = [sys.executable, "-m", "hive", "map", "double", "-", APP]
        done = subprocess.run(
            command, input=b"caf\xe9\n", capture_output=True, timeout=60, env=cli.environment
        )
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"hive: stdin is not UTF-8 text")

    def test_nothing_on_stdin(self, cli: Cli) -> None:
        assert "stdin is empty" in cli("map", "double", "-", APP, code=2, stdin="").stderr
