"""`trustq classify`: a table of answers for a folder of images."""

from pathlib import Path
from typing import Annotated

import typer

from trustq.core.counts import counted

from .options import NoProgress, Quiet
from .output import print_note, print_table, print_text, progress, resumable


def classify(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder that trustq package wrote.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of images.")],
    out: Annotated[Path, typer.Option(metavar="FILE.csv", help="Table to write.")] = Path(
        "answers.csv"
    ),
    variant: Annotated[
        str, typer.Option(metavar="float32|int8|float16", help="Network to use.")
    ] = "float32",
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Write a table with tier, score, conditions and probabilities of every image of a folder.

    Images that cannot be read are listed with the reason. A stopped run goes on where it was when
    the same command is given again. Needs the serve extra and no torch. Research only, not a
    medical device.

    Example: trustq classify demo/model demo/images --out answers.csv
    """
    from trustq.core.freed_memory import keep_freed_memory
    from trustq.core.label_sheets import require_csv
    from trustq.deploy.classify import classify_folder, one_answer, tier_counts, write_answers
    from trustq.deploy.model import load_model

    require_csv(out)
    keep_freed_memory(most_bytes=1 << 26)
    opened = load_model(model, variant=variant)
    if opened.warning:
        print_note(opened.warning)
    kept = out.with_name(f"{out.name}.part")
    with (
        resumable(f"Answers so far are in {kept}; the same command goes on from there."),
        progress("classify", "images") as report,
    ):
        rows = classify_folder(opened, folder, kept=kept, progress=report, note=print_note)
    write_answers(out, rows)
    kept.unlink(missing_ok=True)
    print_table(tier_counts(rows))
    if only := one_answer(rows):
        print_note(only)
    print_text(f"{out}: {counted(len(rows), 'image')}. {opened.about['texts']['disclaimer']}")
