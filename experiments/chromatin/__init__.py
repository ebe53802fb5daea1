"""Which factors open chromatin: DeepSEA, and chromatin whose causes are known."""
