"""vLLM behind ``EngineProtocol``: for those whom one machine's processor does not serve any more.

options.py   what it can be told
asked.py     a request's parameters in vLLM's words, or refused by name
client.py    vLLM itself; the one module that imports it
tether.py    its processes end with ours
engine.py    the engine that the hall drives
"""
