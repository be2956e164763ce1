"""The Kafka edge: the only room that imports the Kafka client."""
