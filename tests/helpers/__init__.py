"""Functions that several tests share.

calls.py               calls to a server as bytes, below the client
drawn_maps.py          maps drawn by rule
equality.py            equality of results, to the last bit
forked.py              a program that uses a classifier before and after a fork
golden_files.py        the golden files and their generator
http2.py               calls as the frames of HTTP/2 that they consist of
killed_runs.py         runs that are killed before each of their writes
labelled_runs.py       dumps to label, the command that labels them, and the comparison of two runs
open_inference.py      outputs of the Open Inference Protocol, and Triton's own client in a process of its own
server_metrics.py      the metrics of the server
servers.py             server processes, and the wait for what they do
small_transformers.py  small transformers with random weights
tokens.py              access tokens, made as people make them
triton_client.py       the code of that process
"""
