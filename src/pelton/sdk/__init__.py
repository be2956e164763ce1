"""The handler side: what a service that is called by Pelton imports.

Stands alone: it needs neither a Kafka client nor the bridge, and only `serve.py` imports gRPC.
"""
