"""Code that makes numbers does not change unnoticed."""

import json

from record_numerics import RECORD, code_digest, source_digests

from trustq.experiments.run import NUMERICS


def test_numerical_code_is_as_recorded_with_its_version() -> None:
    record = json.loads(RECORD.read_text("utf-8"))
    code = source_digests()
    names = sorted({*code, *record["code"]})
    changed = [name for name in names if code.get(name) != record["code"].get(name)]
    assert (changed, NUMERICS) == ([], record["numerics"]), (
        f"Code that makes numbers has changed: {', '.join(changed) or 'its version'}. If a number "
        "of an existing setting changes, raise NUMERICS in trustq/experiments/run.py, so that its "
        "runs are run again, and say so in CHANGELOG.md. Then: python tests/record_numerics.py"
    )


def test_comments_and_docstrings_are_no_code() -> None:
    plain = "def f(x):\n    return x + 1\n"
    assert code_digest(plain) == code_digest("def f( x ):  # add one\n    return x + 1")
    documented = code_digest('def f(x):\n    """One."""\n    return x + 1\n')
    assert documented == code_digest('def f(x):\n    """Two."""\n    return x + 1\n')
    assert code_digest(plain) != code_digest(plain.replace("1", "2"))
