"""What runs on nodes: agents, ranks and the in-job run. Standard library only, Python >= 3.8.

It travels as one small zip to interpreters that have no trainkit. It imports only itself, `trainkit.job` and
`trainkit.errors`.
"""
