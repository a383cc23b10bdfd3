"""Running plans: transports to workers, node connections, distributed transactions, and the last step of a SELECT."""
