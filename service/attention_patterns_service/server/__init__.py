"""The gRPC server: a call passes the gate, its handler reads the messages, a method answers each through the pipeline.

access.py        bearer tokens that let callers in, and their rates
call.py          one call: its deadline, its figures, the time of each stage
gate.py          the gate, where a call is let in or refused
handlers.py      the handlers of calls that were let in
line_writer.py   lines for standard error, which no call waits to have written
load.py          calls and bytes in flight, within the limits
logs.py          logs, one line per call
methods.py       the methods of AttentionPatternService
metrics.py       figures for Prometheus
pipeline.py      the road of a request that is classified: hold, decode, classify, encode
server.py        the server, put together
streams.py       answers to the messages of a stream, in their order
tls.py           certificates that may be renewed while the server runs
token_file.py    the file of the tokens, read, changed and checked
traces.py        OpenTelemetry traces
watchdog.py      the end of calls that wait too long for their caller
open_inference/  the Open Inference Protocol
"""
