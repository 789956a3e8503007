"""Strings, and encoded images: what only the evaluator runs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Results, entry
from graphopt.errors import EvaluationError
from graphopt.ir.types import U8, TensorType


@entry("StringConcat")
def string_concat(b: Context, n: Node) -> Results:
    return b.string_concat(n[0], n[1])


@entry("StringSplit")
def string_split(b: Context, n: Node) -> Results:
    return list(b.string_split(n[0], delimiter=n.attr("delimiter", None), maxsplit=n.attr("maxsplit", None)))


@entry("RegexFullMatch")
def regex_full_match(b: Context, n: Node) -> Results:
    return b.regex_full_match(n[0], pattern=n.attr("pattern"))


@entry("StringNormalizer")
def string_normalizer(b: Context, n: Node) -> Results:
    return b.string_normalize(n[0], case=n.attr("case_change_action", "NONE"),
                              is_case_sensitive=bool(n.attr("is_case_sensitive", 0)), stopwords=n.attr("stopwords", []),
                              locale=n.attr("locale", None))


@entry("TfIdfVectorizer")
def tfidf(b: Context, n: Node) -> Results:
    if "pool_strings" in n.attrs:
        pool = np.array(n.attrs["pool_strings"], dtype=object)
    else:
        pool = np.array(n.attr("pool_int64s"), dtype=np.int64)
    return b.tfidf(n[0], b.const(pool), mode=n.attr("mode"), min_gram=n.attr("min_gram_length"),
                   max_gram=n.attr("max_gram_length"), max_skip=n.attr("max_skip_count"),
                   counts=n.attr("ngram_counts"), indexes=n.attr("ngram_indexes"), weights=n.attr("weights", []))


class _Decode:
    """An encoded image as pixels [H, W, C], by Pillow where that is installed."""

    def __init__(self, pixel_format: str) -> None:
        self.pixel_format = pixel_format
        self.result_types: list[TensorType] = []

    def __call__(self, operands: Sequence[Any]) -> list[np.ndarray]:
        try:
            import PIL.Image
        except ImportError as e:
            raise EvaluationError("decoding images needs Pillow", hint="pip install pillow") from e
        image = PIL.Image.open(io.BytesIO(operands[0].tobytes()))
        if self.pixel_format == "Grayscale":
            return [np.array(image.convert("L"))[:, :, np.newaxis]]
        pixels = np.array(image.convert("RGB"))
        return [pixels[:, :, ::-1].copy() if self.pixel_format == "BGR" else pixels]

    def __repr__(self) -> str:
        return f"<decode {self.pixel_format}>"


@entry("ImageDecoder")
def image_decoder(b: Context, n: Node) -> Results:
    run = _Decode(n.attr("pixel_format", "RGB"))
    height, width = b.graph.fresh_symbol(), b.graph.fresh_symbol()
    run.result_types = [TensorType(U8, (height, width, 1 if run.pixel_format == "Grayscale" else 3))]
    rank_of(n[0])
    return b.op("deferred", [n[0]], {"what": "ImageDecoder", "run": run}, types=run.result_types).result
