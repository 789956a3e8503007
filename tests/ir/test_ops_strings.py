"""String ops and encoders against onnx's reference, and against ONNX's text where the reference differs from it."""

import numpy as np
import pytest
from onnx import TensorProto

from graphopt.errors import EvaluationError, IRError
from tests.ir.one_op import run_op
from tests.ir.onnx_node import reference

WORDS = np.array([["", "a b  c", "x,y,,z"], [" lead", "tail ", ",,"]], object)


def strings(*values):
    out = np.empty(len(values), object)
    out[:] = values
    return out


def same(got, expected):
    assert got.dtype == object
    assert got.tolist() == np.asarray(expected).tolist() and got.shape == np.asarray(expected).shape


def test_concat_broadcasts():
    same(run_op("string_concat", WORDS, strings("1", "2", "3")), WORDS + strings("1", "2", "3"))
    same(run_op("string_concat", np.empty((0, 3), object), strings("1", "2", "3")), np.empty((0, 3), object))


@pytest.mark.parametrize("delimiter", [None, "", ",", "b "])
@pytest.mark.parametrize("maxsplit", [None, 1])
def test_split(delimiter, maxsplit):
    parts, counts = run_op("string_split", WORDS, delimiter=delimiter, maxsplit=maxsplit)
    expected = [s.split(delimiter or None, -1 if maxsplit is None else maxsplit) for s in WORDS.reshape(-1)]
    assert counts.reshape(-1).tolist() == [len(e) for e in expected] and counts.dtype == np.int64
    width = max(map(len, expected))
    assert parts.shape == (2, 3, width)
    assert parts.reshape(-1, width).tolist() == [e + [""] * (width - len(e)) for e in expected]


def test_split_of_nothing():
    parts, counts = run_op("string_split", np.empty((0, 2), object))
    assert parts.shape == (0, 2, 0) and counts.shape == (0, 2)


def test_regex_matches_the_whole():
    x = strings("www.google.com", "www.google.com/", "google", "")
    got = run_op("regex_full_match", x, pattern=r"www\.[\w.-]+\.\bcom\b")
    assert got.tolist() == [True, False, False, False] and got.dtype == np.bool_
    with pytest.raises(EvaluationError, match="not a regular expression"):
        run_op("regex_full_match", x, pattern="(")


@pytest.mark.parametrize("case", ["LOWER", "UPPER", "NONE"])
@pytest.mark.parametrize("sensitive", [True, False])
def test_normalize(case, sensitive):
    x = strings("Monday", "tuesday", "MONDAY", "wednesday")
    change = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}[case]
    kept = [s for s in x if (s if sensitive else s.lower()) not in ("monday",)]
    for shape in ((4,), (1, 4)):
        got = run_op("string_normalize", x.reshape(shape), case=case, is_case_sensitive=sensitive, stopwords=["monday"])
        same(got, np.array([change(s) for s in kept], object).reshape(*shape[:-1], -1))


def test_normalize_to_nothing_gives_one_empty_string():
    same(run_op("string_normalize", strings("a", "A"), stopwords=["a"]), strings(""))
    with pytest.raises(IRError, match=r"\[C\] or \[1, C\]"):
        run_op("string_normalize", WORDS)


def test_label_encode_between_any_dtypes():
    x = strings("a", "d", "b")
    got = run_op("label_encode", x, strings("a", "b"), np.array([10, 20]), np.array([-1]))
    assert got.tolist() == [10, -1, 20] and got.dtype == np.int64
    back = run_op("label_encode", got, np.array([10, 20]), strings("a", "b"), strings("?"))
    same(back, strings("a", "?", "b"))
    nan = run_op("label_encode", np.array([[np.nan, 1.5]], np.float32), np.array([np.nan, 1.5], np.float32),
                 np.array([3, 4], np.int16), np.array(0, np.int16))
    assert nan.tolist() == [[3, 4]] and nan.dtype == np.int16


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("grams", [(1, 1), (2, 2), (1, 2), (1, 3)])
@pytest.mark.parametrize("skip", [0, 1, 5])
@pytest.mark.parametrize("shape", [(12,), (2, 6), (1, 12)])
def test_tfidf_is_onnxs(mode, grams, skip, shape):
    x = np.array([1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8], np.int64).reshape(shape)
    pool = [2, 3, 5, 4, 5, 6, 7, 8, 6, 7, 3, 3, 3]  # 4 of one, 3 of two, 1 of three
    attrs = {"mode": mode, "weights": [0.5, 2.0, 3.0, 1.5, 0.25, 4.0, 1.0, 7.0]}
    counts, indexes = [0, 4, 10], [0, 1, 2, 3, 5, 4, 6, 7]
    expected = reference("TfIdfVectorizer", x, opset=9, min_gram_length=grams[0], max_gram_length=grams[1], max_skip_count=skip,
                         ngram_counts=counts, ngram_indexes=indexes, pool_int64s=pool, **attrs)
    got = run_op("tfidf", x, np.array(pool), min_gram=grams[0], max_gram=grams[1], max_skip=skip, counts=counts, indexes=indexes,
                 **attrs)
    np.testing.assert_array_equal(got, expected, strict=True)


def test_tfidf_of_strings_without_weights():
    x = strings("a", "b", "a", "b")
    got = run_op("tfidf", x, strings("a", "c", "a", "b"), mode="TFIDF", min_gram=1, max_gram=2, max_skip=0, counts=[0, 2],
                 indexes=[0, 1, 2])
    assert got.tolist() == [2, 0, 2]


def test_onnx_string_concat_agrees():
    x, y = strings("a", "bc"), strings("x", "")
    expected = reference("StringConcat", x, y, to=TensorProto.STRING)
    same(run_op("string_concat", x, y), expected)
