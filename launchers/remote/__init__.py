"""Parts of the launcher over ssh: hosts, command lines, calls, the program at the far end, files there and back."""
