"""Code that makes numbers does not change unnoticed."""

import json

from record_numerics import RECORD, ROOT, code_digest, source_digests

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


def test_nothing_that_makes_a_number_is_left_out() -> None:
    code = source_digests()
    for name in (
        *("metrics/per_class", "metrics/classification", "evaluation/slices"),
        *("evaluation/fairness", "repair/rounds", "repair/external_caches", "repair/relabelling"),
        *("heads/multinomial", "scoring/neighbours", "data/noise", "calibration/temperature"),
    ):
        assert f"trustq/{name}.py" in code
    assert not [name for name in code if name.startswith(("trustq/store/", "trustq/results/"))]


def test_halving_recall_is_noticed() -> None:
    name = "trustq/metrics/per_class.py"
    source = (ROOT / name).read_text("utf-8")
    halved = source.replace('"recall": hits / of_class', '"recall": hits / of_class / 2')
    assert halved != source
    assert code_digest(halved) != source_digests()[name] == code_digest(source)
