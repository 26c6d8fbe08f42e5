"""The part that runs inside Orthanc: it sees studies arrive, decides who reads them, and rings for the workers.

Nothing here imports numpy, pydicom or torch: Orthanc stays small and starts at once.
"""
