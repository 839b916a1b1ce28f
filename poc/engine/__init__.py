"""The engine side: the only folder that touches vLLM's internals.

`plugin.register` is loaded in every vLLM process and attaches `worker_methods` to its worker;
`client.connect` reaches them from the API server. Each private symbol of vLLM used here is pinned by
tests/poc/engine/test_contract.py.
"""
