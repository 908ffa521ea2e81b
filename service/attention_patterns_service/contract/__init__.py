"""The contract: messages of ``attention_patterns.v1`` and the library's types, translated both ways.

chunks.py            the pieces in which a large tensor is sent, and selections of layers and heads
converters.py        requests and answers to and from the library's types, in pairs
errors.py            the error classes on the wire, and back
measure_messages.py  measures to and from messages, field by field as they are declared
model_info.py        the description of a server's model and limits
wire.py              large bytes fields, written and read without copying them
"""
