"""How a bench says what it found."""

from __future__ import annotations


def verdict(
    name: str,
    figure: float,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    unit: str = "",
) -> bool:
    """Print one line `name figure must be … ok|FAIL`; return whether the bound holds.

    Without a bound the figure is only told.
    """
    bounds = [f"at most {at_most:g}{unit}"] if at_most is not None else []
    bounds += [f"at least {at_least:g}{unit}"] if at_least is not None else []
    good = (at_most is None or figure <= at_most) and (at_least is None or figure >= at_least)
    told = (
        f"must be {' and '.join(bounds)}  {'ok' if good else 'FAIL'}" if bounds else "(not bounded)"
    )
    print(f"{name}: {figure:.3g}{unit}  {told}", flush=True)
    return good
