"""Makes the import names of the Azure ML SDK v1 trainkit's: `import trainkit.azureml`, then the old imports.

    import trainkit.azureml
    from azureml.core import Workspace, Experiment

`python -m trainkit.azureml script.py` does the same for a script that is not to be changed. Where the SDK itself is
installed, nothing is touched. The table of names is in `trainkit.boot.oldnames`, which travels with jobs.
"""

from trainkit.boot.oldnames import install

install()
