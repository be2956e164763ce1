"""The message to send: what stands in a request, and which events are worth one. No grpc, no Kafka client."""
