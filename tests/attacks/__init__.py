"""Attacks on the server and the classifier: bad input in bulk, failing servers, callers who break the rules.

The commands run for minutes: ``python -m tests.attacks.fuzz`` (``make fuzz``), ``python -m tests.attacks.faults``
and ``python -m tests.attacks.hostile``.
The tests are short forms of them.

callers.py              eight callers, and the ledger of what became of their requests
conftest.py             the bench that the fuzzer's targets stand on
faults.py               command: servers that are killed, given another bundle, or left by their clients
fuzz.py                 command: bad input, fed to every method and to the library
fuzz_expected.py        right answers, as plain numpy decides
fuzz_files.py          files for the fuzzers: bundles, tokens and certificates
fuzz_messages.py        messages, drawn whole, tampered with, or torn
fuzz_seeds.py           attention with its declaration, right and wrong
fuzz_targets.py         what is fed, and the judges of what comes of it
hostile.py              command: hostile callers of every kind at once, beside one good client
hostile_messages.py     messages that ask for much work or memory for their size
test_bad_input.py       bad input, one by one
test_broken_clients.py  callers who break the rules, do not end their calls, or ask for too much
test_connections.py     more connections than a server may have open files
test_faults.py          servers that fail while they are called
test_foreign_text.py    names and tokens that act upon a terminal or a page
test_fuzz.py            bad input in bulk, and proofs that the fuzzer finds
test_hard_pressed.py    a server that is short of memory, or given as much work as callers can make
"""
