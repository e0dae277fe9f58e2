"""Pictures as a loop reads them: decoded off the main thread, kept where memory allows, changed at random by key."""
