"""What the key selections share."""
