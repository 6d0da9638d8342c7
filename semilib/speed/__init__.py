"""What a step costs on this machine, beside others."""
