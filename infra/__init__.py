"""What Tidegate runs on: brokers for tests, demo and benchmarks, container files, dashboards."""
