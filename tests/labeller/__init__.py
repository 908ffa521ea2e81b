"""Tests of the batch labeller.

test_architectures.py  models of every architecture, their attention against that of a plain call
test_dumps.py          files of attention in every format, whole and damaged
test_hugging_face.py   models: batches, threads, failures, memory
test_inputs.py         paths on the command line, and the names of tasks before them
test_label_cli.py      ``attention-label`` as people use it
test_paper.py          the comparison with the figures of Kovaleva et al. 2019
test_ray.py            runs on a real Ray cluster whose workers are killed
test_refused.py        models that no input can be run through, and the failures of many inputs on the screen
test_remote.py         dumps behind URLs, at real servers
test_report.py         the report page in a real browser, and its figures
test_run.py            runs that are killed, fill the disk, or continue earlier ones
test_summary.py        verdicts, against sums by hand and by pandas
test_texts.py          texts, pairs and data sets to run models over
test_turns.py          turns of threads at a model
test_ways.py           models whose modules cannot do without the attention that they return
"""
