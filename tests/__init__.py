"""Tests of everything above the folders they lie in, and the fixtures that all of them share.

conftest.py              the classifier, the data set, a real server and its client
test_one_declaration.py  a measure declared in one place appears in all
test_packaging.py        the wheel, its extras, and files of the user's beside it
test_readme.py           commands, snippets, links and figures of the README and of docs/
test_rooms.py            lists of files in docstrings, folders in docs/architecture.md, first sentences
library/                 the library
labeller/                the batch labeller
server/                  server, client, commands and files for deployment
workshop/                data set, training and model card
attacks/                 bad input, killed processes and full disks
helpers/                 functions that several tests share
"""
