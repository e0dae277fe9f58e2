"""Makes the import names of the Azure ML SDK v1 trainkit's: `import trainkit.azureml`, then the old imports.

    import trainkit.azureml
    from azureml.core import Workspace, Experiment

`python -m trainkit.azureml script.py` does the same for a script that is not to be changed. Where the SDK itself is
installed, nothing is touched, and one line on standard error says so. The table of names is in
`trainkit.boot.oldtable`, which travels with jobs; so does this module.
"""

import sys

from trainkit.boot import oldnames

oldnames.install()
if place := oldnames.installed():
    sys.stderr.write(
        f"trainkit.azureml: the Azure ML SDK is installed here ({place}), so its names are its own, not trainkit's. "
        "Without it (pip uninstall azureml-core) they are trainkit's.\n"
    )
