"""Features and masks kept from run to run."""
