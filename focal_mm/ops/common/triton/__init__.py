"""The Triton kernels that all key selections share."""
