"""What all other packages use: errors, files, devices, memory, caches, exit statuses, and the processes of a run."""
