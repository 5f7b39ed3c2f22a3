"""External sets after the last round of a repair: how much of a loss is changed frequencies."""

from dataclasses import replace

from trustq.evaluation.shift_stages import shift_figures
from trustq.metrics.probabilities import softmax
from trustq.repair.rounds import Evaluated, Round


def with_shift_figures(state: Round, classes: tuple[str, ...]) -> Round:
    """The round with the further stages of its external sets, and their notes.

    Inside rows are the validation rows that the calibrator was fitted on; without any nothing was
    calibrated, and only classes that are absent outside are noted.
    """
    inside = next((own for own in state.evaluated if own.split == "val"), None)
    evaluated, notes = [], list(state.notes)
    for own in state.evaluated:
        if own.split == "external":
            own, found = _with_stages(own, inside, classes)
            notes += [f"{own.dataset}: {note}" for note in found]
        evaluated.append(own)
    return replace(state, evaluated=tuple(evaluated), notes=tuple(notes))


def _with_stages(
    own: Evaluated, inside: Evaluated | None, classes: tuple[str, ...]
) -> tuple[Evaluated, list[str]]:
    notes = []
    present = set(own.labels.tolist())
    if absent := [name for label, name in enumerate(classes) if label not in present]:
        notes.append(
            f"no row is {' or '.join(absent)}; figures over classes are of the others (macro-F1 "
            "also of those that are predicted)."
        )
    if inside is None:
        return own, notes
    found = shift_figures(
        own.labels,
        softmax(own.logits["calibrated"]),
        logits=own.logits["uncalibrated"],
        inside_labels=inside.labels,
        inside_calibrated=softmax(inside.logits["calibrated"]),
    )
    figures = own.figures | found.stages
    return replace(own, figures=figures), [*notes, *found.notes]
