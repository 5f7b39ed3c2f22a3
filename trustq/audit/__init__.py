"""What is wrong with a data set: suspicious labels, what people say of them, duplicate images.

Nothing is loaded before it is used: a review reads an audit's folder and fits no model.
"""

from typing import TYPE_CHECKING

from trustq.core.lazy import lazy_names

if TYPE_CHECKING:
    from trustq.audit.known import known_labels
    from trustq.audit.labels import LabelAudit, audit_labels
    from trustq.audit.source import (
        AuditSource,
        KnownLabels,
        Progress,
        of_source,
        open_source,
        refuse_unused,
    )

__all__ = [
    "AuditSource",
    "KnownLabels",
    "LabelAudit",
    "Progress",
    "audit_labels",
    "known_labels",
    "of_source",
    "open_source",
    "refuse_unused",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AuditSource": "trustq.audit.source",
        "KnownLabels": "trustq.audit.source",
        "LabelAudit": "trustq.audit.labels",
        "Progress": "trustq.audit.source",
        "audit_labels": "trustq.audit.labels",
        "known_labels": "trustq.audit.known",
        "of_source": "trustq.audit.source",
        "open_source": "trustq.audit.source",
        "refuse_unused": "trustq.audit.source",
    },
)
