"""The Open Inference Protocol, which Triton and other servers of models speak, beside the server's own service.

messages.py  tensors of the protocol to the library's types, and back
methods.py   the models of the server, and the methods that describe and ask them
"""
