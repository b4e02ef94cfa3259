"""Lines in the journal carry their level."""

from __future__ import annotations

from tests.systemd.machine import PATIENCE, wait_until
from tests.systemd.services import SPORE, Services


def test_the_journal_finds_lines_by_their_level(services: Services) -> None:
    services.send("speak", "clapperclaw").get(timeout=PATIENCE)

    def said(level: str) -> list[str]:
        lines = services.machine.journal(SPORE, f"--priority={level}").splitlines()
        return [line.partition("clapperclaw")[2].strip() for line in lines if "clapperclaw" in line]

    wait_until(lambda: "at level error" in said("err"), "the last line is there")
    assert said("err") == ["at level error"]
    assert said("warning") == ["at level warning", "", "at level error"]
    assert "at level info" in said("info")
    started = services.machine.journal(SPORE, "--priority=info", "--lines=1000")
    assert "event=worker_started" in started
    assert "event=worker_started" not in services.machine.journal(SPORE, "--priority=warning")
