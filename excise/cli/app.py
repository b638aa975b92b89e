"""The `excise` command: a client of the REST API, to which other packages add commands.

Exit codes: 0 if the verdict is "passed" (or the command succeeded), 100 if the gates were not met,
1 for anything else, 130 if interrupted, 143 (SIGTERM) or 129 (SIGHUP) if told to end.
"""

from __future__ import annotations

import typer

from excise.cli import ci, installation, jobs, serving, webhooks
from excise.cli.audit import print_audit_log
from excise.cli.group import ExciseGroup
from excise.cli.job_list import jobs_app
from excise.cli.reproduce import reproduce

app = typer.Typer(
    name="excise",
    cls=ExciseGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find the few neurons behind a misbehaviour, prune them, prove nothing else broke.",
)
app.command("examples")(installation.examples)
app.add_typer(jobs.prompts_app, name="prompts")
app.command("submit")(jobs.submit)
app.command("reproduce")(reproduce)
app.command("watch")(jobs.watch)
app.command("report")(jobs.report)
app.add_typer(jobs_app, name="jobs")
app.command("cancel")(jobs.cancel)
app.command("delete")(jobs.delete)
app.command("publish")(serving.publish)
app.add_typer(serving.aliases_app, name="aliases")
app.add_typer(serving.versions_app, name="versions")
app.command("pools")(serving.list_pools)
app.add_typer(webhooks.app, name="webhooks")
app.command("audit-log")(print_audit_log)
app.add_typer(ci.app, name="ci")
app.command("version")(installation.version)

if __name__ == "__main__":
    app()
