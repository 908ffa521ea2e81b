"""Measures speed and memory, in ratios of one run: ``make bench``.

harness.py          the attention to work on, the load of callers, rounds taken in turns
tables.py           the tables of all benchmarks, kept in results.json and written as Markdown
kernel.py           the compiled pass beside copying its input
serving.py          serving beside the same work in-process, and beside generated code
naive_server.py     a server as generated code makes it
overload.py         ten times the load that the server can carry
soak.py             start, memory, and whether it grows
against_peers.py    our server beside other servers of the same net
offline.py          labelling dumps, stage by stage, and by cores and Ray workers
offline_models.py   labelling a model's attention beside its forward pass
offline_memory.py   peak memory of labelling, by inputs, lengths and limits
offline_cost.py     what each stage would allow a cluster of 100 nodes
peers/              the other servers, and the callers that load all servers alike
"""
