"""Tell people: locks, warnings and unlocks, by any service that apprise knows. A process of its own beside the gate."""
