"""The engine and what it is made of: pure decisions.

No clock, no randomness, no I/O, no asyncio, no logging and no protobuf in this package; time is handed
in as `now_ms` (a monotonic clock's milliseconds), jitter as a callable. An import contract holds it so.
"""
