"""Events, accountants, ledger and keys. Imports neither torch nor data nor model: an auditor needs no ML stack."""
