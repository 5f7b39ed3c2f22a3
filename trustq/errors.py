"""The one error that trustq raises on purpose."""


class TrustqError(Exception):
    """Bad input or a dishonest experiment: the message says where, what was found, what to do.

    The command line prints it and exits 1. Anything else that escapes is a bug.
    """
