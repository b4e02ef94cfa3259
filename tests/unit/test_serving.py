"""In which order a node serves its queues."""

from __future__ import annotations

from hive.broker.channel.serving import ServingOrder


def bare(lists: list[str]) -> list[str]:
    return [name for name in lists if "\x06" not in name]


def test_pins_requirements_high_own_queues_background() -> None:
    order = ServingOrder("", "a@h", "high", "background")
    order.update(["background", "mine", "high"], ("venom:req:1",))
    assert bare(order.next_lists()) == [
        "venom:pin:a@h",
        "venom:req:1",
        "high",
        "mine",
        "background",
    ]
    assert order.wake_lists[0] == "venom:wake:node:a@h"
    assert order.wake_lists[-1] == "venom:wake:background"


def test_equal_queues_take_turns() -> None:
    order = ServingOrder("", "a@h", "high", "background")
    order.update(["x", "y"], ())
    firsts = [bare(order.next_lists())[1] for _ in range(4)]
    assert firsts == ["y", "x", "y", "x"]


def test_a_queue_that_is_not_consumed_is_not_served() -> None:
    order = ServingOrder("p.", "a@h", "high", "background")
    order.update(["high"], ())
    assert bare(order.next_lists()) == ["p.venom:pin:a@h", "p.high"]
    order.update(["high", "background"], ())
    assert bare(order.next_lists()) == ["p.venom:pin:a@h", "p.high", "p.background"]
