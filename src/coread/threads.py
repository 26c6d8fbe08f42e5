"""Import this before torch.

Threads that wait for each other by spinning make a network many times slower as soon as anything else wants a core, be
it Orthanc. It must be said before torch is loaded; processes that are started inherit it.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
