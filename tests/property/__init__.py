"""What must hold for any input: the gate beside the naive model, and invariants of its own."""
