"""The contract and the HTTP door of Taskslim.

Imports point one way: `worker` imports `service`, never the other way round, and nothing here imports torch or
transformers (tests/test_boundaries.py looks at `sys.modules`). Only `app`, `routes` and `openapi` import fastapi,
so that the worker's image needs none of it.
"""
