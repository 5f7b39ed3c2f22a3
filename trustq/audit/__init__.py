"""What is wrong with a data set: suspicious labels, what people say of them, duplicate images."""

from trustq.audit.labels import LabelAudit, audit_labels
from trustq.audit.source import AuditSource, open_source

__all__ = ["AuditSource", "LabelAudit", "audit_labels", "open_source"]
