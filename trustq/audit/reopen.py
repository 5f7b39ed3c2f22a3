"""The source of an audit's folder, opened again as it was."""

from pathlib import Path
from typing import Any

import numpy as np

from trustq.audit.folder import StoredAudit
from trustq.audit.source import AuditSource, KnownLabels, open_source
from trustq.errors import InputError


def reopen(audit: StoredAudit, **other: Any) -> AuditSource:
    """The first source of an audit with what `open_source` was asked, but for `other` settings.

    Labels that were known then are known again, by the audit's rows. Raises `TrustqError` where the
    file has changed since.
    """
    stored = audit.sources[0]
    asked = {"repeats": 1, **stored["asked"], **other}  # which one that was made once does not name
    path, texts = Path(stored["path"]), asked.pop("texts", None)
    if asked.pop("known", None):  # the labels themselves are in the audit's rows
        rows = np.flatnonzero(audit.trusted)
        ids, given = audit.sample_ids[rows].tolist(), audit.given[rows].tolist()
        known = KnownLabels(dict(zip(map(str, ids), map(str, given), strict=True)), "the audit")
        return open_source(path, **asked, known=known)
    source = open_source(path, **asked)
    if source.cache.content_digest != stored["content_digest"]:
        raise InputError(f"{path} has changed since it was audited: audit it again.", path=path)
    if source.settings.get("texts") != texts:
        raise InputError(
            f"The texts of `head={asked['head']}` have changed since {path} was audited: audit it "
            "again.",
            path=path,
        )
    return source
