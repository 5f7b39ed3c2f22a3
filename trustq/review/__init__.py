"""The page that people answer on: the queue, the journal of answers, agreement, the server."""

from trustq.review.agreement import consensus, krippendorff_alpha
from trustq.review.journal import Answer, Journal
from trustq.review.session import ReviewSession, open_review

__all__ = [
    "Answer",
    "Journal",
    "ReviewSession",
    "consensus",
    "krippendorff_alpha",
    "open_review",
]
