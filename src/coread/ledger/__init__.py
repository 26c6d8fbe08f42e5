"""The ledger: which studies arrive, which jobs are due, what was done. It is the truth; the broker is only a bell.

Every method is one transaction. Methods that change a job's state write only what ``TRANSITIONS`` allows and one row
of history with it. The clock is an argument: callers say what time it is.
"""

from coread.ledger.archive_runs import ArchiveRuns, Wanted
from coread.ledger.arrivals import Arrivals, ArrivingStudy, Wait
from coread.ledger.audit import Audit
from coread.ledger.deliveries import Deliveries
from coread.ledger.following import Following
from coread.ledger.jobs import JobEvent, JobRecord, Jobs
from coread.ledger.processes import Processes
from coread.ledger.raised import Raised, RaisedStudies
from coread.ledger.reviews import Reviews
from coread.ledger.watching import Watching
from coread.ledger.workitems import Workitem, WorkitemChange, Workitems

__all__ = ["ArrivingStudy", "JobEvent", "JobRecord", "Ledger", "Raised", "Wait", "Wanted", "Workitem", "WorkitemChange"]


class Ledger(
    Arrivals, Jobs, Deliveries, Reviews, RaisedStudies, Workitems, ArchiveRuns, Audit, Following, Processes, Watching
):
    """All of the ledger, in one database."""
