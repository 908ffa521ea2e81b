"""The gRPC server: a call passes the gate, its handler reads the messages, a method answers each through the pipeline.

access.py        bearer tokens that let callers in, and their rates
address.py       the address of a server: an interface and a port, or a socket file
call.py          one request: its deadline, its figures, the time of each stage
client_names.py  names in clients' certificates, of which some may be let in
gate.py          the gate, where a call is let in or refused
handlers.py      the handlers of calls that were let in
health.py        health, which answers whatever else the server has to do
line_writer.py   lines for standard error, which no call waits to have written
load.py          calls and bytes in flight, within the limits
logs.py          logs, one line per request
methods.py       the methods of AttentionPatternService
metrics.py       figures for Prometheus
pipeline.py      the road of a request that is classified: hold, take a turn, decode, classify, encode
reflection.py    server reflection, as calls like any other
server.py        the server, put together
streams.py       the messages of a stream as they come, one read ahead
threads.py       pools of threads that exist from the start
tls.py           certificates that may be renewed while the server runs, and the names in those of clients
token_file.py    the file of the tokens, read, changed and checked
traces.py        OpenTelemetry traces
watchdog.py      the end of calls that wait too long for their caller, and of a server whose own thread died
open_inference/  the Open Inference Protocol
"""
