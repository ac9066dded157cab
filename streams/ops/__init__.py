"""What people and other systems touch: the command line, and services beside the money path."""
