"""What is wrong with a data set: suspicious labels, what people say of them, duplicate images."""

from trustq.audit.known import known_labels
from trustq.audit.labels import LabelAudit, audit_labels
from trustq.audit.source import AuditSource, KnownLabels, open_source

__all__ = [
    "AuditSource",
    "KnownLabels",
    "LabelAudit",
    "audit_labels",
    "known_labels",
    "open_source",
]
