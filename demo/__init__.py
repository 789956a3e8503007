"""The demo: a small classifier of handwritten digits, trained here on real data, compiled by graphopt."""
