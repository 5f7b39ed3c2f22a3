"""Lines of arms: one colour and mark in every picture of a results folder."""

from typing import Any

from trustq.report.plots import arm_style, arm_styles


class Runs:
    """A connection whose runs have these arms."""

    def __init__(self, *arms: str) -> None:
        self.arms = arms

    def execute(self, sql: str) -> Any:
        return self

    def fetchall(self) -> list[tuple[str]]:
        return [(arm,) for arm in self.arms]


def test_styles_are_of_the_folder_and_not_of_the_order_that_runs_were_made_in() -> None:
    arms = ("random", "none", "self_confidence", "oracle", "entropy")
    styles = arm_styles(Runs(*arms))
    assert styles == arm_styles(Runs(*reversed(arms)))
    assert len({style["color"] for style in styles.values()}) == len(arms)


def test_no_two_of_49_lines_have_one_colour_and_mark() -> None:
    styles = [arm_style(index) for index in range(49)]
    assert len({(style["color"], style["marker"]) for style in styles}) == 49
