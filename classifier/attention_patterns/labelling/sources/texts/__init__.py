"""Texts and pictures that models read: files, folders, URLs and data sets, by task.

tasks.py         corpora as tasks, with the texts or pictures of each
rows.py          rows of .tsv, .csv, .jsonl, .json and .txt files
dataset_rows.py  rows of Hugging Face data sets
"""
