from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import ROOT, faults

MAP = """\
# Architecture

## The map

### `hive/`: the top

| `door.py` | lets in |

### `hive/cellar/`: below

| `wine.py` | keeps wine |
| `lua/` | `fill.lua` fills a bottle |

## Elsewhere

`no_room.py` is named below another heading.
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house in good order."""
    for name, text in {
        "docs/architecture.md": MAP.replace("`no_room.py`", "`hive/door.py`"),
        "docs/wine.md": "See [the map](architecture.md) and `cellar/wine.py`.\n",
        "README.md": "```bash\ncat nowhere.py\n```\n\n<!-- file: own.py -->\nRun `own.py`.\n",
        "hive/__init__.py": "",
        "hive/door.py": '"""Opens to wine.py, whose steps are in lua/fill.lua."""\n',
        "hive/cellar/__init__.py": "",
        "hive/cellar/wine.py": "# As docs/wine.md says.\n",
        "hive/cellar/lua/fill.lua": "-- Called by wine.py.\nreturn 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_house_is_in_order() -> None:
    assert faults() == []


def test_the_command_says_nothing_of_a_house_in_order() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.house"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_small_house_in_order_has_no_fault(house: Path) -> None:
    assert faults(house) == []


@pytest.mark.parametrize("name", ["hive/attic.py", "hive/cellar/lua/drain.lua"])
def test_what_is_not_on_the_map_is_named(house: Path, name: str) -> None:
    (house / name).write_text("")
    assert faults(house) == [f"{name} is not on the map in docs/architecture.md."]


@pytest.mark.parametrize("name", ["hive/cellar/wine.py", "hive/cellar/lua/fill.lua"])
def test_what_only_the_map_has_is_named(house: Path, name: str) -> None:
    (house / name).unlink()
    assert f"The map in docs/architecture.md names {name}, which is not there." in faults(house)


def test_what_the_map_has_twice_is_named(house: Path) -> None:
    page = house / "docs" / "architecture.md"
    page.write_text(page.read_text().replace("| `door.py`", "| `door.py` | |\n| `door.py`"))
    assert faults(house) == ["The map in docs/architecture.md names hive/door.py 2 times."]


def test_a_room_with_too_many_modules_is_named_and_the_commands_are_not(house: Path) -> None:
    page = house / "docs" / "architecture.md"
    rooms = ""
    for room in ("hive/full/", "hive/cli/"):
        (house / room).mkdir()
        rooms += f"\n### `{room}`\n\n"
        for number in range(16):
            (house / room / f"m{number}.py").write_text("")
            rooms += f"`m{number}.py`\n"
    page.write_text(page.read_text() + rooms)
    assert faults(house) == ["hive/full has 16 modules; a room has at most 15."]


def test_a_line_beyond_column_100_is_named(house: Path) -> None:
    (house / "hive" / "cellar" / "lua" / "fill.lua").write_text(
        "-- " + 97 * "é" + "\n--" + 99 * "x"
    )
    assert faults(house) == ["hive/cellar/lua/fill.lua:2 has 101 columns; a line has at most 100."]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hive/door.py", '"""As gone.md says."""\n'),
        ("hive/door.py", "open = True  # by gone.md\n"),
        ("hive/cellar/lua/fill.lua", "return 1 -- as gone.md\n"),
        ("docs/wine.md", "See `gone.md`.\n"),
    ],
)
def test_a_file_that_is_named_and_not_there_is_a_fault(house: Path, name: str, text: str) -> None:
    (house / name).write_text(text)
    assert faults(house) == [f"{name} names gone.md, which is not there."]
