"""What goes wrong outside of the package: killed processes, full disks, damaged and hostile files.

Nothing that is stored is lost, nothing damaged is taken for a result, and the message says what to
do. Cases that belong to one module are beside its tests: weight files that are truncated, of
another kind or hold code in `test_deepsea`, `test_bpnet` and `test_mtsplice`; no network and files
of another checksum in `test_downloads`; unknown notebook parameters in `test_notebooks`; other
settings and unfinished runs in `test_rounds`, `test_sweeps`, `test_graph_runs`, `test_chromatin`
and `test_atlas`; another schema version and an interrupted store of effects in `test_mutagenesis`;
a killed workflow in `test_workflow`.
"""
