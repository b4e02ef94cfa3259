"""`python -m bench`: what counts as a bench,
and what a failing or endless one does to the whole.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import bench_names, main, run


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    benches = {
        "_shared": "",
        "passes": "",
        "misses_a_bound": "raise SystemExit(1)",
        "never_ends": (
            "import pathlib, time\ntry:\n    time.sleep(60)\n"
            "finally:\n    pathlib.Path('cleaned').touch()"
        ),
    }
    (tmp_path / "bench").mkdir()
    for name, text in benches.items():
        (tmp_path / "bench" / f"{name}.py").write_text(text)
    return tmp_path


def test_every_module_without_a_leading_underscore_is_a_bench(checkout: Path) -> None:
    assert bench_names(checkout / "bench") == ["misses_a_bound", "never_ends", "passes"]


@pytest.mark.parametrize(("name", "code"), [("passes", 0), ("misses_a_bound", 1)])
def test_a_bench_runs_with_its_own_exit_code(name: str, code: int, checkout: Path) -> None:
    assert run(name, checkout) == code


def test_an_endless_bench_fails_and_may_clean_up(checkout: Path) -> None:
    assert run("never_ends", checkout, limit=1.0) != 0
    assert (checkout / "cleaned").exists()


def test_an_unknown_bench_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert "no bench nonsense" in capsys.readouterr().err
