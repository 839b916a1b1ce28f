"""`hallmark verify` and `hallmark calibrate`."""
