"""What a process shows of itself to Prometheus: the list of metrics, where their figures come from, how they go out."""
