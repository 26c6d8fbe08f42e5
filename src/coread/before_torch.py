"""Import this before torch: what it reads of the environment once, when it is loaded or first wants memory.

Processes that are started inherit it. Whoever starts Coread may say otherwise.
"""

import os

# Threads that wait for each other by spinning make a network many times slower as soon as anything else wants a core,
# be it Orthanc.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A network of a hundred classes writes its scores to fresh memory for each window. In pages of 2 MB the system hands it
# out, and takes it back, several times faster than in pages of 4 kB; and they are read faster. Linux only.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
