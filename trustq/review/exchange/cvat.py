"""CVAT's "CVAT for images 1.1": a tag on an image is a label, several tags are several right ones.

Tried with datumaro 1.13.12, both ways. An image without a tag was not answered. The file does not
say who tagged which image, only whom the task is assigned to, who is then the rater.
"""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from trustq.errors import DamagedFile, InputError
from trustq.review.exchange.task import BESIDE, KnownIds, Task, answer_of, known_id, said_by
from trustq.review.journal import Answer


def write(tasks: Sequence[Task], classes: Sequence[str]) -> str:
    """Images with their tags: the answers of one rater, or the given label where nobody answered.

    Raises `TrustqError` where several raters answered, whom one such file cannot tell apart.
    """
    raters = sorted({a.rater for task in tasks for a in task.answers})
    if len(raters) > 1:
        raise InputError(
            f"A CVAT file holds the tags of one person, and {len(raters)} answered: "
            f"{', '.join(raters)}. Write one a rater."
        )
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    meta = ET.SubElement(ET.SubElement(root, "meta"), "task")
    if raters:
        ET.SubElement(ET.SubElement(meta, "assignee"), "username").text = raters[0]
    labels = ET.SubElement(meta, "labels")
    for name in (*classes, *BESIDE):
        label = ET.SubElement(labels, "label")
        ET.SubElement(label, "name").text = name
        ET.SubElement(label, "type").text = "tag"
        ET.SubElement(label, "attributes")
    for number, task in enumerate(tasks):
        at = {"id": str(number), "name": task.image or task.sample_id, "width": "1", "height": "1"}
        image = ET.SubElement(root, "image", at)
        said = [choice for a in task.answers for choice in said_by(a)]
        source = "manual" if raters else "auto"
        for name in said if raters else [task.given]:
            ET.SubElement(image, "tag", {"label": name, "source": source})
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def read(text: str, ids: KnownIds, *, rater: str, where: str) -> list[Answer]:
    """Answers of images that were tagged by hand."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DamagedFile(f"{where}: declares entities, which no CVAT export does.")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise DamagedFile(f"{where}: not XML ({error}).") from None
    if root.tag != "annotations":
        raise InputError(f"{where}: not a CVAT for images file; its root is {root.tag!r}.")
    assigned = root.findtext("./meta//assignee/username") or root.findtext("./meta//assignee")
    who = (assigned or "").strip() or rater
    time = root.findtext("./meta//updated") or root.findtext("./meta/dumped")
    answers = []
    for image in root.iter("image"):
        tags = [tag for tag in image.iter("tag") if tag.get("source") != "auto"]
        labels = [str(tag.get("label")) for tag in tags]
        if not labels:
            continue
        sample_id = known_id(None, image.get("name"), ids, where=where)
        answers.append(answer_of("cvat", sample_id, labels, rater=who, time=time))
    return answers
