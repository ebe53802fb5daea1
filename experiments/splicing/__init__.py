"""Exon definition: whether a trained splicing ensemble knows that a donor helps its acceptor.

`data/exons.csv` lists 308 human exons. `book/results/exon_definition` holds, for 170 of them,
effects of all substitutions of some positions, by member, float16: ``<exon>.effect`` (member,
position, A C G T, feature), ``.position`` in a sequence that begins 5,000 bases before the first
site that is read, ``.features`` (the exon's acceptor and donor, and sites across its introns within
4,500 bases), log-odds; and ``.predictions`` (member, 3, feature) of the reference, of the donor's
GT made CA, and of the acceptor's AG made CT.
"""
