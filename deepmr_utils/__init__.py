"""Deep MR: in-silico mutagenesis and robust Mendelian randomization on model predictions."""

__version__ = "0.1.0"
