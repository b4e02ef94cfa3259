"""Two nexuses, one of which is cut off: the other takes over, and the first one does nothing until
it is back.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.netns.hive import NEXUSES, SPORES, hive_on

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("faults", [("down", "deaf"), ("reset", "mute")], ids="-".join)
def test_of_two_nexuses_the_other_acts_while_the_link_of_one_fails_for_20_s(
    tmp_path: Path, faults: tuple[str, str]
) -> None:
    with hive_on(tmp_path, *NEXUSES, *SPORES) as hive:
        results, runs = hive.begin()
        alone = [run for run in runs if run.node == runs[0].node]
        # A node is cut off, too, so that the second nexus has something to do.
        with (
            hive.cut(alone[0].node.partition("@")[0]),
            hive.leader_cut("n1", hive.machines["n1"].fault(faults[0])),
        ):
            pass
        hive.wait_back(alone[0])
        assert hive.silent("n2") == {alone[0].node}

        with hive.leader_cut("n2", hive.machines["n2"].fault(faults[1])):
            pass
        assert hive.silent("n1") == set(), "only the nexus was cut off, and nobody is missed"
        hive.each_ended_once(results, alone)
        assert hive.declared_dead() == {alone[0].incarnation}


@pytest.mark.parametrize("near", [SPORES[:2], ()], ids=["spores on both", "no spore on one"])
def test_two_nexuses_on_different_sides_of_a_network_that_is_cut_for_20_s(
    tmp_path: Path, near: tuple[str, ...]
) -> None:
    """The broker and the nexus that waits are on the near side, the one that leads is not."""
    away = set(SPORES) - set(near)
    with hive_on(tmp_path, *NEXUSES, *SPORES, far={"n1", *away}) as hive:
        results, runs = hive.begin()
        # Where no node is heard, none is missed: nobody could take what they run.
        missed = {f"{name}@h" for name in away} if near else set[str]()
        with hive.leader_cut("n1", hive.parted()):
            pass
        assert hive.silent("n2") == missed
        hive.each_ended_once(results, [run for run in runs if run.node in missed])
        assert {incarnation.rpartition("/")[0] for incarnation in hive.declared_dead()} == missed
