"""Attention on x86 as one kernel. template.py is where it begins."""
