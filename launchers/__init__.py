"""Where jobs run: launchers, how nodes become ranks (`spreads`), imported as `trainkit_launchers`."""
