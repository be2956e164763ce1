"""The gRPC edge: calls out, outcomes in, both in batches. The only importer of grpc on the bridge side."""
