"""The run: units of work through an engine into the run folder.

run.py          a run, what it skips as done already, and the engine of this process's threads
estimate.py     what a run would take, from a few of its inputs
ray_engine.py   the engine that spreads units over the workers of a Ray cluster
ray_cluster.py  a Ray cluster, joined or started here
"""
