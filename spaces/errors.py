"""Every error the product raises, grouped by what the caller does next.

    SearchError
      InvalidRequest   fix the request       exit 2
      StudyBroken      stop, nothing is lost  exit 1
        StorageLost    resume once the database answers again  exit 2
      WorkerLost       recorded, go on

An expected failure of one policy is not here: it is a `Failure`, a value that crosses processes.
"""

__all__ = ["InvalidRequest", "SearchError", "StorageLost", "StudyBroken", "WorkerLost"]


class SearchError(Exception):
    """Base of every error whose message is meant for the user, without a traceback."""


class InvalidRequest(SearchError):
    """The request cannot be served; the message names the flag or file, the rule and the value."""


class StudyBroken(SearchError):
    """The study cannot go on: the disk is full, the record belongs to another spec, ..."""


class StorageLost(StudyBroken):
    """The record's database does not answer any more; what it said it has is there."""


class WorkerLost(SearchError):
    """A worker process or node died while it evaluated a policy."""
