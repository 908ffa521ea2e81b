"""Attacks on the server and the classifier: bad input in bulk, failing servers, callers who break the rules.

The commands run for minutes: ``python -m tests.attacks.fuzz`` (``make fuzz``) and ``python -m tests.attacks.faults``.
The tests are short forms of them.

callers.py              eight callers, and the ledger of what became of their requests
faults.py               command: servers that are killed, given another bundle, or left by their clients
fuzz.py                 command: bad input, fed to every method and to the library
fuzz_seeds.py           inputs for the fuzzers, right and wrong
test_broken_clients.py  callers who break the rules, do not end their calls, or ask for too much
test_faults.py          servers that fail while they are called
test_fuzz.py            bad input, in bulk and one by one
"""
