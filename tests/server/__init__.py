"""Tests of the service: real servers on free ports of this machine, asked by real clients.

test_access.py                   bearer tokens, their shares, and TLS
test_channel_options.py          the options of gRPC, each held by what it does
test_client.py                   the client: answers and errors equal to the library's, chunks, several servers
test_connection.py               causes of failed connections, addresses, and tokens without TLS
test_contract.py                 generated code of the contract
test_demo.py                     ``make run``
test_deploy.py                   files for deployment, each checked by the tool that reads it
test_forks.py                    classifiers and clients in forked processes
test_health.py                   health, whatever its callers do
test_limits.py                   limits on calls, bytes, maps and time
test_logs.py                     logs of server processes, and readers who stop reading
test_metrics.py                  figures for Prometheus, counted by hand
test_metrics_page.py             the metrics page beside silent, slow and unknown readers
test_open_inference.py           the Open Inference Protocol, asked by Triton's own client
test_open_inference_messages.py  the Open Inference Protocol, asked by plain messages
test_other_clients.py            clients that share no code with this project
test_process.py                  server processes: signals, reloading, workers, logs, settings
test_reload.py                   files that are read again while a server serves
test_retries.py                  calls that are repeated, and those that are not
test_service.py                  the server's methods, streams, health and end
test_service_errors.py           error classes on the wire
test_start.py                    what a server tries before it starts, and the addresses that it binds
test_token_file.py               the token file, and the commands that change it
test_traces.py                   OpenTelemetry traces
test_triton_export.py            the net as a model of a Triton model repository
test_wire.py                     messages written and read beside their payload
node/                            a client in JavaScript
"""
