"""Attention that was written to files: .npz, .npy, .safetensors, .parquet and .zarr.

source.py              dumps as a source, read and measured slab by slab
plan.py                the files of each task, and their inputs cut into units
formats.py             the reader of each suffix
stored.py              the common ground of the readers: an opened file, an input in it, its attention in slabs
layout.py              which of five axes counts the inputs
raw.py                 .npy, .npz and .safetensors
parquet.py             .parquet
zarr.py                .zarr
byte_sources.py        bytes of a file or of a member of a zip archive
safetensors_header.py  the header of a .safetensors file, checked against its size
"""
