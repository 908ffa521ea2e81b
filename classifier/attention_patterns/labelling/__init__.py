"""Labels whole corpora offline: dumps, or a model's attention over texts, into a folder of Parquet parts."""
