"""Probes: each uses one interface, really. `mematlas.doctor.features` has the list of them.

A probe uses memory and a child of its own, looks at other processes without touching them, and leaves nothing behind.
It returns what else is to be known, as a `Reason`, or None; it raises what the kernel answered, or `Missing`.
"""
