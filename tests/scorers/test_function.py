"""A function of the user's own: what it may return, and every way in which it can be wrong."""

import textwrap

import pytest

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import Example, Score
from corrsteer.scorers.function import Function

EXAMPLE = Example("row-7", "p", "gold")


@pytest.fixture
def user(tmp_path, monkeypatch, request):
    """``user(code)``: the name of a new module with that code, importable."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code: str) -> str:
        name = f"user_scorers_{abs(hash(request.node.nodeid))}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return name

    return write


def test_a_field_that_an_example_lacks(user):
    module = user("def judge(example, text):\n    return text == example.right\n")
    with pytest.raises(DataError) as caught:
        Function(f"{module}.judge")(EXAMPLE, "text")
    assert (
        "'Example' object has no attribute 'right'; an Example has id, prompt, gold, options"
        in (str(caught.value))
    )


@pytest.mark.parametrize(
    ("returned", "score"),
    [
        ("True", Score(1.0, "1")),
        ("False", Score(0.0, "0")),
        ("1", Score(1.0, "1")),
        ("0.25", Score(0.25, "0.25")),
        ("np.bool_(True)", Score(1.0, "1")),
        ("np.float32(0.5)", Score(0.5, "0.5")),
        ("np.int64(0)", Score(0.0, "0")),
        ("fractions.Fraction(1, 2)", Score(0.5, "0.5")),
        ("Score(1.0, 'x')", Score(1.0, "x")),
        ("Score(0.0, None)", Score(0.0, None)),
        ("Score(True, 'x')", Score(1.0, "x")),
        ("len(text) <= len(example.gold)", Score(1.0, "1")),
    ],
)
def test_what_a_function_may_return(user, returned, score):
    module = user(f"""
        import fractions
        import numpy as np
        from corrsteer.records import Score
        def judge(example, text):
            return {returned}
    """)
    given = Function(f"{module}.judge")(EXAMPLE, "text")
    assert given == score
    assert type(given.value) is float


@pytest.mark.parametrize(
    "returned",
    [
        "None", "'1'", "1.5", "-0.1", "float('nan')", "float('inf')", "10 ** 400", "1j", "[1]",
        "np.array([1.0])", "np.array(1.0)", "decimal.Decimal(1)", "Score(2.0, 'x')", "(1.0, 'x')",
        "Score(float('nan'), 'x')", "Score(1.0, None)", "Score(1.0, 5)", "Score(None, 'x')",
    ],
)  # fmt: skip
def test_anything_else_is_refused(user, returned):
    module = user(f"""
        import decimal
        import numpy as np
        from corrsteer.records import Score
        def judge(example, text):
            return {returned}
    """)
    with pytest.raises(DataError) as error:
        Function(f"{module}.judge")(EXAMPLE, "text")
    says = str(error.value)
    assert says.startswith(f"{module}.judge returned ")
    assert "'row-7'" in says
    assert "return a bool, a number from 0 to 1" in says
    assert "\n" not in says


def test_an_exception_of_the_function_is_one_line_with_its_cause(user):
    module = user("""
        def judge(example, text):
            raise KeyError("first line\\nsecond line")
    """)
    with pytest.raises(DataError) as error:
        Function(f"{module}.judge")(EXAMPLE, "text")
    assert f"{module}.judge failed on example 'row-7': KeyError: 'first line" in str(error.value)
    assert "\n" not in str(error.value)
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "path", ["judge", "", ".judge", "m.", "m..judge", "a b.judge", "m.judge()", "1.x", 5, None]
)
def test_what_is_no_dotted_path_is_refused(path):
    with pytest.raises(ConfigError) as error:
        Function(path)
    assert f"task.scorer.path={path!r} is not a dotted path; type task.scorer.path=" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("code", "name", "says"),
    [
        ("x = (", "judge", "cannot be imported: SyntaxError"),
        ("import no_such_module", "judge", "cannot be imported: ModuleNotFoundError"),
        ("raise ValueError('a\\nb')", "judge", "cannot be imported: ValueError: a b"),
        ("import sys; sys.exit(1)", "judge", "cannot be imported: SystemExit"),
        ("x = 1", "judge", "cannot be imported: AttributeError"),
        ("judge = 5", "judge", "is a int, not a function"),
        ("def judge(text): pass", "judge", "cannot be called with (example, text)"),
        ("def judge(a, b, c): pass", "judge", "cannot be called with (example, text)"),
    ],
)
def test_a_function_that_cannot_be_had_is_refused_at_once(user, code, name, says):
    module = user(code)
    with pytest.raises(ConfigError) as error:
        Function(f"{module}.{name}")
    assert f"task.scorer.path={module}.{name} {says}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_that_is_not_there():
    with pytest.raises(ConfigError, match="no_such_module.judge cannot be imported: ModuleNotF"):
        Function("no_such_module.judge")


def test_a_function_may_take_more_than_it_must(user):
    module = user("""
        def judge(example, text, strict=False, **more):
            return text == "yes"
        class Both:
            def __call__(self, example, text):
                return True
        both = Both()
    """)
    assert Function(f"{module}.judge")(EXAMPLE, "yes").value == 1
    assert Function(f"{module}.both")(EXAMPLE, "yes").value == 1


def test_what_is_recorded():
    scorer = Function("operator.eq", version=3)
    assert (scorer.path, scorer.version) == ("operator.eq", 3)
    assert scorer == Function("operator.eq", version=3) != Function("operator.eq")
    assert scorer(EXAMPLE, "gold") == Score(0.0, "0")


def test_any_text_reaches_the_function(user):
    module = user("def judge(example, text): return text == example.gold")
    for text in ("", "\x00", "\u200f", "x" * 100_000):
        assert Function(f"{module}.judge")(Example("1", "p", text), text).value == 1
