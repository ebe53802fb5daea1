"""The studies of the book: data with known causes, networks trained on it, and their analyses."""

from pathlib import Path

DATA = Path(__file__).parent / "data"  # tables, sequences and weights that come with the studies
