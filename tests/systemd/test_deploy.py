"""`hive deploy systemd` on a machine that systemd runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.base import REPOSITORY
from tests.systemd.image import VENV
from tests.systemd.machine import Machine
from tests.systemd.services import ENV_FILE, HIVE, UNITS

SHIPPED = REPOSITORY / "deploy/systemd"
NAMES = ("hive-nexus.service", "hive-spore@.service", "hive-flower.service", "hive.target")
ENABLED = ["hive.target", "hive-nexus.service", "hive-spore@spore-1.service"]


@pytest.fixture(autouse=True)
def nothing_installed(machine: Machine) -> Iterator[None]:
    """No unit of Hive, no settings; so it is left, too."""

    def clear() -> None:
        machine.run("systemctl", "stop", "hive*")
        machine.run("sh", "-c", f"rm -rf /etc/hive {UNITS}/hive* {UNITS}/*.wants/hive*")
        machine.run("systemctl", "daemon-reload")

    clear()
    yield
    clear()


def files(machine: Machine) -> dict[str, str]:
    """All files of Hive in /etc, and what they hold; a link, where it leads."""
    there = [
        *machine.path("/etc/hive").rglob("*"),
        *machine.path(UNITS).rglob("*hive*"),
        *machine.path(UNITS).glob("hive*/*"),
    ]
    root = machine.path("/")
    return {
        f"/{path.relative_to(root)}": f"-> {path.readlink()}"
        if path.is_symlink()
        else path.read_text()
        for path in there
        if path.is_symlink() or path.is_file()
    }


def deploy(machine: Machine, *arguments: str) -> dict[str, object]:
    return dict(json.loads(machine.run(HIVE, "deploy", "systemd", "--json", *arguments)))


def test_the_units_are_those_of_the_checkout_with_the_path_of_this_hive(machine: Machine) -> None:
    done = deploy(machine)
    for name in NAMES:
        expected = (SHIPPED / name).read_text().replace("/usr/bin/hive", HIVE)
        assert machine.path(f"{UNITS}/{name}").read_text() == expected
    assert done["program"] == HIVE
    assert done["enabled"] == ENABLED
    enabled = machine.run("systemctl", "is-enabled", *ENABLED).split()
    assert enabled == ["enabled"] * 3
    assert machine.run("stat", "-c", "%U:%G %a", ENV_FILE).strip() == "root:hive 640"
    assert (
        machine.run("getent", "passwd", "hive").strip().endswith(":/var/lib/hive:/usr/sbin/nologin")
    )
    assert machine.done("systemctl", "is-active", *ENABLED).stdout.split() == ["inactive"] * 3
    verified = machine.done("systemd-analyze", "verify", *ENABLED, "hive-flower.service")
    assert verified.returncode == 0, verified
    assert verified.stderr == ""


def test_twice_changes_nothing(machine: Machine) -> None:
    deploy(machine)
    before = files(machine)
    again = deploy(machine)
    assert (again["written"], again["enabled"], again["user_made"]) == ([], [], False)
    assert files(machine) == before
    said = machine.run(HIVE, "deploy", "systemd")
    assert said == "All is as it should be; nothing to do.\n"


def test_more_spores_are_added_and_what_was_disabled_stays_so(machine: Machine) -> None:
    deploy(machine)
    machine.run("systemctl", "disable", "hive-nexus.service", "hive-spore@spore-1.service")
    assert deploy(machine)["enabled"] == []
    assert deploy(machine, "--spores", "gpu-1")["enabled"] == ["hive-spore@gpu-1.service"]
    assert deploy(machine, "--spores", "2")["enabled"] == [
        "hive-spore@spore-1.service",
        "hive-spore@spore-2.service",
    ]
    state = machine.done("systemctl", "is-enabled", "hive-nexus.service").stdout
    assert state == "disabled\n"


def test_a_machine_without_a_nexus_stays_without(machine: Machine) -> None:
    done = deploy(machine, "--no-nexus", "--spores", "0", "--flower")
    assert done["enabled"] == ["hive.target", "hive-flower.service"]
    assert deploy(machine)["enabled"] == [], "an upgrade is a call without options"
    assert deploy(machine, "--nexus")["enabled"] == ["hive-nexus.service"]


def test_gpus_stay_open_until_they_are_closed(machine: Machine) -> None:
    drop_in = machine.path(f"{UNITS}/hive-spore@.service.d/gpu.conf")
    deploy(machine, "--gpu")
    assert deploy(machine)["removed"] == []
    assert drop_in.exists()
    assert deploy(machine, "--no-gpu")["removed"] == [f"{UNITS}/hive-spore@.service.d/gpu.conf"]
    assert not drop_in.exists()


def test_an_edited_unit_is_kept_and_said(machine: Machine) -> None:
    deploy(machine)
    unit = machine.path(f"{UNITS}/hive-spore@.service")
    unit.write_text(unit.read_text() + "# mine\n")
    env_file = machine.path(ENV_FILE)
    env_file.write_text("REDIS_HOST=10.0.0.5\n")
    other = machine.path(f"{UNITS}/hive-nexus.service")
    other.unlink()
    done = machine.done(HIVE, "deploy", "systemd")
    assert done.returncode == 0
    assert f"kept {UNITS}/hive-spore@.service: it is not as Hive wrote it" in done.stderr
    assert unit.read_text().endswith("# mine\n")
    assert env_file.read_text() == "REDIS_HOST=10.0.0.5\n"
    assert "ExecStart" in other.read_text()


def test_a_masked_unit_stays_masked(machine: Machine) -> None:
    machine.run("systemctl", "mask", "hive-nexus.service")
    done = deploy(machine)
    assert done["kept"] == [f"{UNITS}/hive-nexus.service"]
    assert machine.path(f"{UNITS}/hive-nexus.service").readlink() == Path("/dev/null")
    assert done["enabled"] == [ENABLED[0], ENABLED[2]]


def test_an_older_release_s_units_are_brought_up_to_date(machine: Machine) -> None:
    """That one wrote them, for a hive elsewhere, and nobody changed them since."""
    machine.run("sh", "-c", f"mkdir -p /opt/old && ln -sfn {VENV} /opt/old/venv")
    machine.run("/opt/old/venv/bin/hive", "deploy", "systemd")
    assert "/opt/old/venv/bin/hive" in machine.path(f"{UNITS}/hive-nexus.service").read_text()
    done = deploy(machine)
    assert done["kept"] == [ENV_FILE]
    assert [Path(name).name for name in done["written"]] == list(NAMES[:3])
    assert f"ExecStart={HIVE} " in machine.path(f"{UNITS}/hive-nexus.service").read_text()


def test_remove_keeps_settings_data_and_edited_units(machine: Machine) -> None:
    deploy(machine, "--spores", "2")
    machine.run("mkdir", "-p", "/var/lib/hive")
    machine.path("/var/lib/hive/mine").write_text("data")
    edited = f"{UNITS}/hive-nexus.service"
    machine.run("sh", "-c", f"echo '# mine' >> {edited}")
    machine.run("rm", f"{UNITS}/hive-flower.service")
    before = files(machine)
    would = deploy(machine, "--remove", "--dry-run")
    assert files(machine) == before
    done = machine.done(HIVE, "deploy", "systemd", "--remove")
    assert done.returncode == 0, done
    assert f"removed {UNITS}/hive-spore@.service" in done.stdout
    assert f"kept {edited}" in done.stderr
    assert f"Kept: {ENV_FILE}" in done.stdout
    assert would["removed"] == [f"{UNITS}/hive-spore@.service", f"{UNITS}/hive.target"]
    assert set(files(machine)) == {edited, ENV_FILE}
    assert machine.path("/var/lib/hive/mine").read_text() == "data"
    machine.run("getent", "passwd", "hive")
    again = machine.run(HIVE, "deploy", "systemd", "--remove")
    assert again == "Nothing of Hive is installed under systemd here.\n"


def test_a_dry_run_writes_nothing_and_needs_no_rights(machine: Machine) -> None:
    before = files(machine)
    asked = ("setpriv", "--reuid", "65534", "--clear-groups", HIVE, "deploy", "systemd")
    told = machine.run(*asked, "--dry-run", "--spores", "2")
    assert f"would have written {UNITS}/hive-spore@.service" in told
    assert "would have enabled hive-spore@spore-2.service" in told
    assert files(machine) == before == {}


REFUSED = {
    "without root": (
        ("setpriv", "--reuid", "65534", "--clear-groups", HIVE),
        1,
        "hive deploy systemd needs root",
    ),
    "without systemd": (
        ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs /run && exec {HIVE} "$@"', "sh"),
        1,
        "systemd does not run this machine",
    ),
    "under /home": (("/home/ann/venv/bin/hive",), 1, "/home, which their ProtectHome hides"),
    "under /root": (("/opt/linked/bin/hive",), 1, "/root, which their ProtectHome hides"),
    "for root only": (("/opt/private/bin/hive",), 1, "Another user than root cannot run"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_work_is_refused_and_nothing_is_done(machine: Machine, how: str) -> None:
    command, code, sentence = REFUSED[how]
    # What is under /home and /root is a venv of its own, which uses the libraries of the other one.
    prepare = f"""
        for place in /home/ann/venv /root/venv /opt/private; do
            [ -e $place ] && continue
            python3 -m venv --without-pip $place
            echo {VENV}/lib/python3.11/site-packages > $place/lib/python3.11/site-packages/hive.pth
            sed "1s,.*,#!$place/bin/python," {HIVE} > $place/bin/hive
            chmod 755 $place/bin/hive
        done
        chmod 700 /opt/private
        ln -sfn /root/venv /opt/linked
    """
    machine.run("sh", "-ec", prepare)
    before = files(machine)
    done = machine.done(*command, "deploy", "systemd")
    assert done.returncode == code, done
    assert done.stderr.startswith("hive: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert files(machine) == before == {}


def test_an_interrupted_one_has_done_all_or_nothing_and_the_next_one_does_the_rest(
    machine: Machine,
) -> None:
    for seconds in ("0.5", "1", "1.5", "2", "3"):
        machine.done("timeout", "--signal=INT", seconds, HIVE, "deploy", "systemd")
        units = [name for name in NAMES if machine.path(f"{UNITS}/{name}").exists()]
        assert units in ([], list(NAMES)), seconds
        assert machine.path(ENV_FILE).exists() == bool(units)
    deploy(machine)
    assert machine.run("systemctl", "is-enabled", *ENABLED).split() == ["enabled"] * 3
    assert not [name for name in files(machine) if name.endswith(".new")]


def test_a_full_disk_leaves_all_as_it_was(machine: Machine) -> None:
    full = f"mount -t tmpfs -o size=4k tmpfs {UNITS} && exec {HIVE} deploy systemd"
    done = machine.done("unshare", "--mount", "sh", "-c", full)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(machine) == {}
