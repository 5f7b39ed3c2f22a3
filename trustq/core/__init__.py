"""What every other room may use: columns, digests, files written whole, ids, seeds, interrupts."""
