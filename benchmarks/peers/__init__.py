"""Peers that serve the same net, and the callers that load all servers alike.

catalogue.py        the servers, how each is started and asked
callers.py          callers over bare sockets, HTTP/1.1 and gRPC
load.py             one measurement under load
processes.py        the processes of a server, for their CPU time and their end
net.py              the net as every peer runs it
bentoml_server.py   BentoML
fastapi_server.py   FastAPI under uvicorn
grpcio_server.py    grpcio with nothing of ours
litserve_server.py  LitServe
mlserver_server.py  MLServer
ray_server.py       Ray Serve
"""
