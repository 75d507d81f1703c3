"""Every refusal of the system, as one tree of typed errors.

A message is one sentence that names the value and the limit, followed by the remedy. The command line maps
`exit_code` to the process's exit status: 0 is success, 1 is refused or failed, 2 is a usage error.
"""

from __future__ import annotations


class MmrecError(Exception):
    """Base of all expected errors.

    Args:
        problem: what was found, with the offending value and the limit it broke.
        remedy: what the reader can do about it.
    """

    exit_code: int = 1

    def __init__(self, problem: str, *, remedy: str) -> None:
        self.problem = problem.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(f"{self.problem}. {self.remedy}.")


class UsageError(MmrecError):
    """The command was called with arguments that do not fit together."""

    exit_code = 2


class ConfigError(MmrecError):
    """A configuration file or value is outside its documented range."""


class DataError(MmrecError):
    """A partner folder cannot be used as it is."""


class EncoderError(MmrecError):
    """An encoder cannot be loaded, or its weights are not the expected ones."""


class FeatureError(MmrecError):
    """A feature store or bundle is missing, damaged or not the agreed one."""


class BundleSignatureError(FeatureError):
    """A feature bundle is not signed by the coordinator that a partner trusts."""


class TrustError(MmrecError):
    """A federation file, an enrolment or a certificate is forged, expired or not the one that was compared."""


class ModelError(MmrecError):
    """A model folder or state does not fit its configuration."""


class ProtocolError(MmrecError):
    """A message does not follow the wire contract."""


class AdmissionError(MmrecError):
    """The server refuses a reply; `reason` is one of the counted codes of `server.admission`."""

    def __init__(self, reason: str, problem: str, *, remedy: str) -> None:
        self.reason = reason
        super().__init__(problem, remedy=remedy)


class PolicyRefusal(MmrecError):
    """A partner's own policy refuses a run; `code` names the rule, without any private value."""

    def __init__(self, code: str, problem: str, *, remedy: str) -> None:
        self.code = code
        super().__init__(f"[{code}] {problem}", remedy=remedy)


class PrivacyError(MmrecError):
    """A privacy computation or configuration would not give the guarantee it claims."""


class BudgetExhausted(PrivacyError):
    """The planned releases cost more than the budget that is left."""


class LedgerError(PrivacyError):
    """A ledger is damaged, rolled back, forked, locked or used twice."""
