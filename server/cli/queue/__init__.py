"""`hallmark queue` and `hallmark worker`: standing verification of what receivers take."""
