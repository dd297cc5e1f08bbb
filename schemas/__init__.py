"""The wire format: `.proto` source and its compiled descriptors."""
