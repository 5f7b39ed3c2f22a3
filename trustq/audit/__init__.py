"""Label audit: which labels of real data look wrong, what people say, what cleaning changes."""

from trustq.audit.labels import LabelAudit, audit_labels
from trustq.audit.source import AuditSource, open_source

__all__ = ["AuditSource", "LabelAudit", "audit_labels", "open_source"]
