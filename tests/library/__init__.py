"""Tests of the library.

test_attention_map.py      arrays that are no attention maps, each refused with its reason
test_bundle.py             the model bundle: read, checked, refused
test_classification.py     classifications: shapes, declarations, padding, causality, warnings
test_extras.py             the message for a missing extra, for each way of installing
test_foreign_text.py       text that others wrote, spelt out and bounded
test_golden.py             renderings and classifications as recorded in golden/
test_measures.py           measures against arithmetic by hand and against numpy
test_outputs.py            outputs of models that are not as expected
test_rendering.py          images against the documented rendering, at many lengths
test_row_sums.py           rows that do not sum to 1, taken or refused by their cause
test_special_tokens.py     special tokens by name, of a tokenizer, and of a caller
test_temporary_folders.py  temporary folders, left by none and removed while nobody uses them
test_terminal.py           tables and grids in the terminal
"""
