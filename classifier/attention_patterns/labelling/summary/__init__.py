"""The summary of a run: the verdict on each head over many inputs.

paper.py          the figures of Kovaleva et al. 2019 beside those of a run
summary.py        sums over the labels of a run, and the verdicts made from them
summary_files.py  summary.json and heads.parquet
sums.py           sums over rows that come part by part; shares, intervals and means made from them
"""
