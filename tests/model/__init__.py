"""An independent model of the gate, written from the contract and the fine print alone."""
