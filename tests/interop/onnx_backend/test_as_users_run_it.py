"""onnx.backend.test over graphopt.interop.onnx_backend, as ONNX tells its users to. A few cases: test_suite_x86.py has all."""

from __future__ import annotations

import unittest
import warnings

import graphopt.interop.onnx_backend

WANTED = ("test_(add|argmax_default_axis_example|gemm_default_vector_bias|layer_normalization_4d_axis1|nonzero_example)_cpu",
          "test_(AvgPool2d|Softmax|Conv1d_pad1)_cpu", "test_operator_(addmm|permute2)_cpu", "test_add_cuda")


def test_onnx_runs_its_tests_over_the_backend() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases' own arithmetic
        import onnx.backend.test

        backend_test = onnx.backend.test.BackendTest(graphopt.interop.onnx_backend, __name__)
        for pattern in WANTED:
            backend_test.include(pattern)
        result = unittest.TestResult()
        backend_test.test_suite.run(result)
    assert result.wasSuccessful(), "\n".join(text for _, text in (*result.failures, *result.errors))
    assert result.testsRun - len(result.skipped) == 10
    assert any("doesn't support device CUDA" in why for _, why in result.skipped)
