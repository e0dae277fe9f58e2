"""What becomes of environments beside jobs: registered versions, folders, builds ahead of a job, conda's own ones.

`trainkit.Environment` has the methods; these modules do the work and are loaded when one is called.
"""
