"""Texts and pictures that models read: files, folders, URLs and data sets, by task."""
