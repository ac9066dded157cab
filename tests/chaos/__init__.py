"""Three workers on three brokers, a seeded workload, faults by process id, and an oracle at the end. See README.md."""
