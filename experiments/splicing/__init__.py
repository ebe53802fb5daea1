"""Exon definition: whether a trained splicing ensemble knows that a donor helps its acceptor."""
