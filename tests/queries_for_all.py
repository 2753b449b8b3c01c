"""What is asked of a broker, with acts on any process: what a command may do is tested elsewhere (`apart`)."""

from __future__ import annotations

from mematlas.frozen import replace
from mematlas.observe import queries

EVERY = tuple(replace(query, is_act=False) for query in queries.EVERY)
