"""The shell around the pure core: Kafka, RocksDB, Faust. ``streams/README.md`` tells how the parts work together."""
