"""The API of Taskslim, and everything that the API and the worker share.

Imports point one way: `worker` imports `service`, and `service` never imports `worker`, torch or transformers. Only
`service.api` imports fastapi, so the worker's image needs no web framework. tests/test_boundaries.py checks both.
"""
